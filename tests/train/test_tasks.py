import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from kanvolution.data import DataInfo
from kanvolution.train import TrainerConfig, create_loss, create_task, fit
from kanvolution.train.progress import Silent
from tests.train.toy import toy_data, toy_model


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
    ovo = expected if classes == 2 else sk.roc_auc_score(labels, scores, multi_class="ovo", average="macro")
    assert values["auc_ovo"] == pytest.approx(ovo, abs=1e-6)
    assert values["macro_recall"] == pytest.approx(sk.recall_score(labels, scores.argmax(1), average="macro"))
    assert values["macro_f1"] == pytest.approx(sk.f1_score(labels, scores.argmax(1), average="macro"))
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


@pytest.mark.parametrize(("classes", "choice", "measured"), [(100, None, True), (101, None, False), (101, True, True)])
def test_one_vs_one_areas_of_many_classes_are_measured_when_asked_for(classes: int, choice, measured: bool) -> None:
    task = create_task({"name": "classification", "auc_ovo": choice}, info(classes))
    task.reset(torch.device("cpu"))
    task.update(torch.randn(8, classes), torch.arange(8))
    assert ("auc_ovo" in task.compute()) is measured


def test_the_loss_is_chosen_by_name_and_weighted_by_class() -> None:
    choice = {"name": "classification", "loss": {"name": "focal", "gamma": 1.5}, "class_weights": [1.0, 2.0, 0.5]}
    output, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    p = output.softmax(1).gather(1, target.unsqueeze(1))[:, 0]
    w = torch.tensor([1.0, 2.0, 0.5])[target]
    expected = (-w * (1 - p) ** 1.5 * p.log()).sum() / w.sum()
    torch.testing.assert_close(create_task(choice, info(3)).loss(output, target), expected)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "bce"])
def test_mixed_targets_go_through_every_loss_with_label_smoothing(name: str) -> None:
    task = create_task({"name": "classification", "loss": name, "label_smoothing": 0.1}, info(3))
    output, shares = torch.randn(5, 3), torch.randn(5, 3).softmax(1)
    smooth = 0.9 * shares + 0.1 / 3
    torch.testing.assert_close(task.loss(output, shares), create_loss(name)(output, smooth))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_gives_each_image_a_part_of_another_and_of_its_class(kind: str) -> None:
    task = create_task({"name": "classification", kind: 1.0}, info(4))
    torch.manual_seed(0)
    labels = torch.arange(4)
    images = labels.view(4, 1, 1, 1).float().expand(4, 3, 8, 8)
    mixed, shares = task.transform_batch(images, labels)
    assert torch.equal(images[:, 0, 0, 0], labels.float()), "the batch itself is left as it was"
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    own = shares[labels, labels]
    assert ((own > 0) & (own < 1)).all() and (shares > 0).sum() == 8
    # The images hold their class, so their means are what the shares say.
    torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ labels.float(), atol=1e-5, rtol=0)
    if kind == "cutmix":
        assert set(mixed.unique().tolist()) == {0.0, 1.0, 2.0, 3.0}


def test_mixing_follows_torchs_generator_and_its_probability() -> None:
    images, labels = torch.randn(8, 1, 6, 6), torch.arange(8) % 4

    def mixed(seed: int, **options: float) -> list[torch.Tensor]:
        task = create_task({"name": "classification", "mixup": 0.4, "cutmix": 1.0, **options}, info(4))
        torch.manual_seed(seed)
        return [task.transform_batch(images, labels)[0] for _ in range(30)]

    first = mixed(1)
    assert all(map(torch.equal, first, mixed(1))) and not all(map(torch.equal, first, mixed(2)))
    # Mixed images are no copies of a pixel, cut ones are.
    originals = set(images.flatten().tolist())
    kinds = {set(batch.flatten().tolist()) <= originals for batch in first}
    assert kinds == {True, False}
    unchanged = sum(torch.equal(batch, images) for batch in mixed(1, mix_probability=0.5))
    assert 8 <= unchanged <= 22
    assert all(torch.equal(batch, images) for batch in mixed(1, mix_probability=0.0))


def test_validation_is_never_mixed(tmp_path) -> None:
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}

    class Watch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = toy_model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen[self.training].append(x)
            return self.net(x)

    task = {"name": "classification", "mixup": 1.0}
    options = {"trainer": TrainerConfig(epochs=1, batch_size=8), "progress": Silent(), "output_dir": tmp_path / "run"}
    fit(Watch(), toy_data(), task=task, **options)
    originals = {tuple(toy_data().train[i][0].flatten().tolist()) for i in range(32)}
    for training, batches in seen.items():
        known = [tuple(image.flatten().tolist()) in originals for image in torch.cat(batches)]
        assert not any(known) if training else all(known)


def test_outputs_and_targets_that_do_not_fit_the_task() -> None:
    task = create_task("classification", info(3))
    with pytest.raises(ValueError, match=r"output of the network \(shape \(2, 4\)\) must be \[N, 3, ...\]"):
        task.loss(torch.randn(2, 4), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"target \(shape \(2, 5, 5\)\) does not fit .* choose the task"):
        task.loss(torch.randn(2, 3), torch.zeros(2, 5, 5, dtype=torch.long))
    with pytest.raises(
        ValueError, match=r"task.class_weights \(=\[1.0, 2.0\]\) must have one weight for each of the 3"
    ):
        create_task({"name": "classification", "class_weights": [1.0, 2.0]}, info(3))
    with pytest.raises(ValueError, match=r"task.mix_probability \(=2\)"):
        create_task({"name": "classification", "mix_probability": 2}, info(3))
    with pytest.raises(ValueError, match=r"task.mixup \(=-1\)"):
        create_task({"name": "classification", "mixup": -1}, info(3))
