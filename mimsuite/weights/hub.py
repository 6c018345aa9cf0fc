"""A folder is uploaded to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from mimsuite.errors import InputError, RunError


def upload(
    folder: Path,
    repo_id: str | None = None,
    *,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Uploads a folder and returns the address of the commit.

    Args:
        folder: what is uploaded, with all that is in it.
        repo_id: `ORG/NAME`, or a name in the user's own space; made if absent. None: the folder's name.
        commit_message: of the commit.
        private: of a new repository; None: what the user's settings on the hub say.
        token: None: the one that `hf auth login` keeps.
        revision: a branch; None: `main`.
        create_pr: propose the files as a pull request.

    Raises:
        InputError: huggingface_hub is not installed.
        RunError: the hub does not take them.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise InputError("an upload to the hub needs huggingface_hub; pip install mimsuite[hub]") from None
    name, api = repo_id or folder.resolve().name, HfApi(token=token)
    try:
        made = api.create_repo(name, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=made,
            folder_path=folder,
            commit_message=commit_message or "Upload model",
            revision=revision,
            create_pr=create_pr,
        )
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(f"{name!r} cannot be uploaded to the Hugging Face hub: {reason}") from error
    return str(commit.commit_url)
