"""Steps that change everything a layer can hold, and what their layers are made of."""

from __future__ import annotations

import io
import tarfile

from support.layout_files import Layout

CHANGES = """\
FROM {base}
RUN mkdir -p /d/e /gone /set && echo 1 > /d/a && echo 2 > /d/e/b && echo 3 > /gone/x && ln -s d /l
RUN chown 33:44 /d/a && chown -h 5:6 /l && chmod 4750 /d/a && chmod 000 /d/e/b && chmod 2775 /set \\
 && chgrp 77 /set && touch /set/inherits && ln /d/a /d/hard && mkfifo /d/fifo
RUN rm -rf /d/e && mkdir /d/e && echo new > /d/e/n && rm /gone/x && rmdir /gone && mv /set /moved
RUN cp -a /d /copy && tar -C / -cf - d | tar -C /moved -xf -
RUN id -u > /who; umask 077; echo secret > /private; mkdir /privdir; umask > /mask
COPY --chown=8:9 file /moved/file
USER 1234:567
WORKDIR /home/worker
RUN id > out; touch mine; ln -s mine link; mkdir dir; pwd >> out; cat /moved/file >> out
"""


def members(path):
    """Each layer's entries: what an image is made of, times left out."""
    layout = Layout(path)
    found = []
    for data in layout.layers():
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            found.append(
                {
                    m.name: (
                        m.type, oct(m.mode), m.uid, m.gid, m.size, m.linkname, m.devmajor, m.devminor,
                        tar.extractfile(m).read() if m.isreg() else b"",
                    )
                    for m in tar
                }
            )  # fmt: skip
    return found
