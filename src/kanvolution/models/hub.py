"""The Hugging Face Hub: fetching the files of a repository, and uploading a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

SHIPPED = Path(__file__).parent / "shipped"
"""Folder of the trained networks inside of the package: a folder of a saved model for each name."""

_REPO_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def fetch(
    source: str | Path,
    files: Sequence[str],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """A local folder that holds `files`: `source` itself, one of the package, or the cached copy of a repository.

    Args:
        source: a folder, the name of a network that ships with the package, or the id of a repository of the hub
            ("user/name"). A folder comes first; where there is a folder "user" here, "user/name" is a path.
        files: names of the files that are needed; nothing else is downloaded.
        revision: branch, tag or commit of the repository; None for its main branch.
        cache_dir: where downloads are kept; None for the hub's own place (the environment variable HF_HOME moves it).
        token: for private repositories; None for the one of `hf auth login`.
        local_files_only: use what is in the cache, without the network.
        force_download: download again what is in the cache.

    Raises:
        ValueError: there is no such folder or repository, it lacks a file, or the hub cannot be reached. The message
            says what to download and where to put it.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision (={revision!r}) needs a repository of the hub, and {str(source)!r} is a folder")
        return _complete(folder, files)
    repo_id = str(source)
    if repo_id in shipped_names():
        return SHIPPED / repo_id
    if not _REPO_ID.fullmatch(repo_id) or folder.parent.is_dir():
        raise ValueError(f"there is no folder {repo_id!r}; name one, or a repository of the hub as 'user/name'")
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
            allow_patterns=list(files),
        )
    except _failures() as error:
        raise ValueError(
            f"there is no folder {repo_id!r}, and no such repository could be read from the Hugging Face Hub: "
            f"{_reason(error)} {_by_hand(repo_id, revision, files)}"
        ) from error
    return _complete(Path(found), files, _by_hand(repo_id, revision, files))


def shipped_names() -> list[str]:
    """Names of the trained networks inside of the package, sorted."""
    return sorted(config.parent.name for config in SHIPPED.glob("*/config.json"))


def upload(
    folder: str | Path,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str,
    create_pr: bool = False,
) -> str:
    """Upload the files of a folder to a repository, which is made if it is not there.

    Returns:
        The address of the commit.

    Raises:
        ValueError: the hub cannot be reached, or refuses.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
        )
    except _failures() as error:
        raise ValueError(
            f"repo_id (={repo_id!r}) could not be uploaded to: {_reason(error)} Where the hub cannot be reached from "
            "here, save_pretrained(folder) writes the same files; upload them with: hf upload REPO_ID FOLDER"
        ) from error
    return str(commit.pr_url or commit.commit_url)


def _failures() -> tuple[type[Exception], ...]:
    """What the hub's client raises. The bases of its own error are those of the HTTP library below, which differ."""
    from huggingface_hub import errors

    return (OSError, errors.HFValidationError, *errors.HfHubHTTPError.__bases__)


def _reason(error: Exception) -> str:
    """The first line of an error, as a sentence."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if line.endswith(".") else f"{line}."


def _by_hand(repo_id: str, revision: str | None, files: Sequence[str]) -> str:
    return (
        f"Without the network: download {' and '.join(files)} from "
        f"https://huggingface.co/{repo_id}/tree/{revision or 'main'} elsewhere, put them into one folder, and pass "
        "that folder's path instead."
    )


def _complete(folder: Path, files: Sequence[str], remedy: str = "") -> Path:
    """`folder`. Raises ValueError if it lacks one of the files."""
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        lack = f"{str(folder)!r} is not the folder of a saved model: it has no {' and no '.join(missing)}."
        raise ValueError(f"{lack} {remedy}" if remedy else lack)
    return folder
