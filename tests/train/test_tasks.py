import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from kanvolution.data import DataInfo
from kanvolution.train import create_task


def info(classes: int) -> DataInfo:
    return DataInfo("x", 1, (4, 4), tuple(map(str, range(classes))), (0.0,), (1.0,))


def measure(logits: torch.Tensor, target: torch.Tensor, classes: int, parts: int = 3):
    task = create_task("classification", info(classes))
    task.reset(torch.device("cpu"))
    for output, labels in zip(logits.chunk(parts), target.chunk(parts), strict=True):
        task.update(output, labels)
    return task.compute(), task.tables()["confusion"]


@pytest.mark.parametrize("classes", [2, 3, 10, 17])
def test_metrics_equal_scikit_learns(classes: int) -> None:
    torch.manual_seed(classes)
    target = torch.cat([torch.arange(classes), torch.randint(classes, (173,))])
    logits = 0.3 * torch.randn(len(target), classes)
    logits[torch.arange(len(target)), target] += 0.6
    values, confusion = measure(logits, target, classes)
    scores, labels = logits.softmax(1).double().numpy(), target.numpy()
    scores = scores / scores.sum(1, keepdims=True)
    assert values["top1"] == pytest.approx(sk.accuracy_score(labels, scores.argmax(1)))
    assert values["loss"] == pytest.approx(sk.log_loss(labels, scores, labels=range(classes)), rel=1e-5)
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(labels, scores.argmax(1)))
    expected = (
        sk.roc_auc_score(labels, scores[:, 1])
        if classes == 2
        else sk.roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    )
    assert values["macro_auc"] == pytest.approx(expected, abs=1e-5)
    if classes >= 10:
        top5 = sk.top_k_accuracy_score(labels, scores, k=5, labels=range(classes))
        assert values["top5"] == pytest.approx(top5)
    else:
        assert "top5" not in values


def test_a_class_without_samples_is_left_out_of_the_area() -> None:
    torch.manual_seed(0)
    target = torch.tensor([0, 1, 3] * 20)
    logits = torch.randn(60, 5) + 2 * torch.eye(5)[target]
    values, _ = measure(logits, target, classes=5)
    scores = logits.softmax(1).numpy()
    expected = np.mean([sk.roc_auc_score(target.numpy() == c, scores[:, c]) for c in (0, 1, 3)])
    assert values["macro_auc"] == pytest.approx(expected, abs=1e-5)


def test_with_a_single_class_there_is_no_area() -> None:
    values, _ = measure(torch.randn(6, 3), torch.ones(6, dtype=torch.long), classes=3)
    assert values["macro_auc"] is None and values["top1"] is not None


def test_logits_that_look_like_probabilities_are_still_logits() -> None:
    target = torch.tensor([0, 1] * 8)
    logits = torch.rand(16, 2)
    area = measure(logits, target, 2)[0]["macro_auc"]
    assert area == pytest.approx(sk.roc_auc_score(target.numpy(), (logits[:, 1] - logits[:, 0]).numpy()), abs=1e-6)


def test_a_new_validation_forgets_the_last() -> None:
    task = create_task("classification", info(3))
    for wrong in (True, False):
        task.reset(torch.device("cpu"))
        target = torch.arange(3)
        task.update(10 * torch.eye(3)[target.roll(1) if wrong else target], target)
        assert task.compute()["top1"] == (0.0 if wrong else 1.0)
    assert task.tables()["confusion"] == torch.eye(3).int().tolist()


def test_label_smoothing_enters_the_loss_alone() -> None:
    task = create_task({"name": "classification", "label_smoothing": 0.2}, info(4))
    output, target = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    smooth = 0.8 * torch.eye(4)[target] + 0.2 / 4
    expected = -(smooth * output.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(task.loss(output, target), expected)
    task.reset(torch.device("cpu"))
    task.update(output, target)
    plain = torch.nn.functional.cross_entropy(output, target)
    assert task.compute()["loss"] == pytest.approx(float(plain), rel=1e-5)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="Did you mean 'label_smoothing'"):
        create_task({"name": "classification", "label_smothing": 0.2}, info(4))
    with pytest.raises(ValueError, match=r"task.label_smoothing \(=1.5\)"):
        create_task({"name": "classification", "label_smoothing": 1.5}, info(4))
    with pytest.raises(ValueError, match="Did you mean 'classification'"):
        create_task("clasification", info(4))
