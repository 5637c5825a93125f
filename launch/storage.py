"""The bucket in the right region, the code of this clone in it, and the newest checkpoint of a run."""

import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from commands import Commands, Stop, last, reason
from settings import ELSEWHERE, Settings

CLONE = Path(__file__).resolve().parents[1]
INSTALLED = ("lit_tune", "configs", "launch", "setup.py", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE",
             "NOTICE")


def ensure_bucket(settings: Settings, commands: Commands) -> None:
    """Make the bucket in the region of the machines, or make sure that it lies there.

    Raises:
        Stop: it lies elsewhere (and nobody said --force), is somebody else's, or cannot be made.
    """
    bucket, region = settings.bucket, settings.region
    answer = commands.ask(["gcloud", "storage", "buckets", "describe", bucket, f"--project={settings.project}",
                           "--format=value(location)"])
    place = answer.out.strip().lower()
    if answer.code == 0 and place == region:
        return
    if answer.code == 0 and place:
        line = (f"--bucket: expected a bucket in {region}, found {bucket} in {place}: every byte read would be slower "
                "and may be billed as traffic; name another bucket (it is made), or add --force")
        if not settings.force:
            raise Stop(2, line)
        commands.say(line)
        return
    if answer.code != 0 and reason(answer.error) != "absent":
        raise Stop(1, f"{bucket}: cannot be looked at: {last(answer)}; if the name is somebody else's, choose "
                      "another one")
    commands.must(["gcloud", "storage", "buckets", "create", bucket, f"--project={settings.project}",
                   f"--location={region}", "--uniform-bucket-level-access", "--public-access-prevention",
                   "--enable-hierarchical-namespace"], f"{bucket} could not be made")
    commands.say(f"made {bucket} in {region}; it is kept by `down` and billed by what lies in it")


def upload_code(settings: Settings, commands: Commands) -> str:
    """The address of this clone's files in the bucket; the same files are uploaded once."""
    packed = pack()
    name = f"lit-tune-{hashlib.sha256(packed).hexdigest()[:16]}.tar"
    address = f"{settings.bucket}/code/{name}"
    if not commands.dry_run and commands.ask(["gcloud", "storage", "ls", address]).code == 0:
        return address
    folder = Path(tempfile.mkdtemp(prefix="lit-tune-"))  # of this user alone
    try:
        (folder / name).write_bytes(packed)
        commands.must(["gcloud", "storage", "cp", str(folder / name), address], "the code could not be uploaded")
    finally:
        if not commands.dry_run:  # there the printed line has to work
            shutil.rmtree(folder)
    return address


def pack(clone: Path = CLONE) -> bytes:
    """A tar of what is installed; the same bytes for the same files.

    Of the files that git knows or would know; all of them in an unpacked archive, whatever a repository around it says.
    """
    known = _known(clone) or _below(clone)
    names = sorted(name for name in known if name and (clone / name).is_file())
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name in names:
            info = tar.gettarinfo(clone / name, name)
            info.mtime = info.uid = info.gid = 0
            info.uname = info.gname = ""
            with (clone / name).open("rb") as data:
                tar.addfile(info, data)
    return raw.getvalue()


def _known(clone: Path) -> list[str]:
    """The paths that git knows or would know of what is installed; none where the folder is no clone."""
    if not (clone / ".git").exists() or shutil.which("git") is None:
        return []
    listed = subprocess.run(["git", "-C", str(clone), "ls-files", "-z", "--cached", "--others", "--exclude-standard",
                             "--", *INSTALLED], capture_output=True, text=True)
    return listed.stdout.split("\0") if listed.returncode == 0 else []


def _below(folder: Path) -> list[str]:
    """The paths of all files of what is installed, Python's own leavings apart."""
    found = [file for name in INSTALLED for file in [folder / name, *(folder / name).rglob("*")]]
    return [file.relative_to(folder).as_posix() for file in found
            if "__pycache__" not in file.parts and not file.name.endswith(".pyc")]  # fmt: skip


def newest_step(settings: Settings, commands: Commands) -> int:
    """Step of the newest whole checkpoint, -1 if there is none or it cannot be told."""
    if "://" not in settings.workdir:
        found = Path(settings.workdir).glob("checkpoints/*/digests.json")
        return max((int(file.parent.name) for file in found if file.parent.name.isdigit()), default=-1)
    listed = commands.ask(["gcloud", "storage", "ls", f"{settings.workdir}/checkpoints/*/digests.json"])
    if listed.code != 0 and reason(listed.error) != "absent":
        commands.say(f"the checkpoints in {settings.workdir} cannot be looked at: {last(listed)}")
    return max(map(int, re.findall(r"/checkpoints/(\d+)/digests\.json", listed.out)), default=-1)


def tell_newest(settings: Settings, commands: Commands) -> None:
    """Say which checkpoint is the newest."""
    step = newest_step(settings, commands)
    commands.say(f"newest checkpoint: {f'step {step}' if step >= 0 else 'none'} in {settings.workdir}")


def confirm_new(settings: Settings, commands: Commands, what: str) -> None:
    """Ask before `resume` makes machines for a run that never was, as one with a mistyped name.

    Raises:
        Stop: the person says no, or there is nobody to ask.
    """
    if newest_step(settings, commands) < 0:
        commands.confirm(f"There is no {what}, and no checkpoint in {settings.workdir} ({ELSEWHERE}). Create it?",
                         yes=settings.yes)
