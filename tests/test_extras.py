import sys

import pytest

from kanvolution.extras import require


def test_a_missing_package_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"'accelerate' is not installed.*pip install 'kanvolution\[train\]'"):
        require("accelerate", "train")


def test_an_import_that_fails_inside_the_package_is_not_called_missing(tmp_path, monkeypatch) -> None:
    (tmp_path / "broken_package.py").write_text("import no_such_package_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="no_such_package_at_all") as caught:
        require("broken_package", "train")
    assert "kanvolution[" not in str(caught.value)


def test_training_without_accelerate_says_what_to_install(monkeypatch, tmp_path) -> None:
    from kanvolution.train import fit
    from tests.train.toy import toy_data, toy_model

    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"kanvolution\[train\]"):
        fit(toy_model(), toy_data(), output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
