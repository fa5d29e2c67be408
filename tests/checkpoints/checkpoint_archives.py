"""Archives of checkpoints for tests."""

import gzip
import io
import os
import tarfile

FILES = {"adapter.bin": os.urandom(300_000), "adapter_config.json": b"{}", "more/notes.txt": b"x"}


def archive(files=FILES, packed=True, extra=()):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for entry in extra:
            tar.addfile(entry)
    return gzip.compress(content.getvalue()) if packed else content.getvalue()
