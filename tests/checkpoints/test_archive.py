"""Archives of checkpoints: members outside the folder are refused, and every byte is checked."""

import tarfile

import pytest
from checkpoint_archives import archive

from tinkex_sync import errors
from tinkex_sync.checkpoints.archive import replace_folder, unpack

LIMIT = 1 << 20


def entry(name, kind=tarfile.REGTYPE, target=""):
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, target
    return found


@pytest.mark.parametrize(
    "hostile",
    [
        entry("../outside"),
        entry("/tmp/outside"),
        entry("a/../../outside"),
        entry("C:\\outside"),
        entry("link", tarfile.SYMTYPE, "/etc/passwd"),
        entry("link", tarfile.SYMTYPE, "../../outside"),
        entry("hard", tarfile.LNKTYPE, "/etc/passwd"),
        entry("device", tarfile.CHRTYPE),
        entry("pipe", tarfile.FIFOTYPE),
        entry("d/" * 1500 + "file"),
    ],
    ids=lambda member: f"{member.name} {member.linkname}".replace("/", "_")[:40],
)
def test_an_archive_with_a_member_outside_the_folder_is_refused(hostile, tmp_path):
    packed = tmp_path / "archive"
    packed.write_bytes(archive(extra=[hostile]))
    with pytest.raises(errors.APIResponseValidationError, match="nothing was changed"):
        unpack(packed, tmp_path / "folder", lambda count: None, LIMIT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "folder"]


def test_a_link_inside_the_archive_is_unpacked_as_a_copy(tmp_path):
    packed, counts = tmp_path / "archive", []
    packed.write_bytes(archive({"file": b"content"}, extra=[entry("link", tarfile.SYMTYPE, "file")]))
    unpack(packed, tmp_path / "folder", counts.append, LIMIT)
    assert (tmp_path / "folder" / "link").read_bytes() == b"content"
    assert not (tmp_path / "folder" / "link").is_symlink()
    assert counts == [1, 2]


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_the_checksum_of_every_compression_is_checked(compression, tmp_path):
    packed = tmp_path / "archive"
    with tarfile.open(packed, f"w:{compression}") as tar:
        tar.addfile(entry("empty"))
    content = packed.read_bytes()
    packed.write_bytes(content[:-6] + bytes(byte ^ 255 for byte in content[-6:]))
    with pytest.raises(errors.APIResponseValidationError):
        unpack(packed, tmp_path / "folder", lambda count: None, LIMIT)


def test_a_folder_that_cannot_be_renamed_keeps_the_old_destination(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(OSError):
        replace_folder(tmp_path / "missing", tmp_path / "old", tmp_path / "backup")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_an_archive_that_unpacks_to_more_than_the_limit_is_refused(tmp_path):
    packed = tmp_path / "archive"
    packed.write_bytes(archive({"a": bytes(LIMIT // 2), "b": bytes(LIMIT // 2)}))
    unpack(packed, tmp_path / "fits", lambda count: None, LIMIT)
    packed.write_bytes(archive({"a": bytes(LIMIT // 2), "b": bytes(LIMIT // 2 + 1)}))
    with pytest.raises(errors.APIResponseValidationError, match=f"more than {LIMIT} bytes"):
        unpack(packed, tmp_path / "folder", lambda count: None, LIMIT)


def test_copies_by_links_count_towards_the_limit(tmp_path):
    packed = tmp_path / "archive"
    links = [entry(f"link{index}", tarfile.SYMTYPE, "file") for index in range(20)]
    packed.write_bytes(archive({"file": bytes(LIMIT // 10)}, extra=links))
    with pytest.raises(errors.APIResponseValidationError, match="set max_bytes"):
        unpack(packed, tmp_path / "folder", lambda count: None, LIMIT)
