# Petechia with its viewer, run by an unprivileged user (uid 10001).
#
# Build, without or with CUDA (the name of an index of PyTorch that has the torch version of constraints.txt):
#     docker build -t petechia .
#     docker build -t petechia:cuda --build-arg TORCH_INDEX=cu130 .
#
# Run. Data is read from /data, results are written to /out, which is also the working folder; --user makes you own them:
#     docker run --rm --user "$(id -u):$(id -g)" -v /path/to/data:/data:ro -v "$PWD/out:/out" petechia \
#         run --data nih:/data/ChestX-ray14 --out /out/run
#     docker run --rm --gpus all … petechia:cuda run …
# Without --user, /out must be writable for uid 10001. To read strangers' files, add --network none --read-only --tmpfs /tmp.
#
# Of the extras the image has web alone. Another one needs a layer of its own, and downloads are kept below /out/.cache:
#     FROM petechia
#     USER root
#     RUN pip install 'transformers>=5.0'
#     USER 10001:10001
#
# The viewer, published on this machine alone:
#     docker run --rm -v "$PWD/out:/out" -p 127.0.0.1:8765:8765 petechia serve /out/run --host 0.0.0.0
# Open the address that it prints, token included, with 127.0.0.1 in place of the container's name.

FROM python:3.12-slim AS build

ARG TORCH_INDEX=cpu
ARG TORCH_WHEELS=https://download.pytorch.org/whl

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
RUN python -m venv /opt/petechia
ENV PATH=/opt/petechia/bin:$PATH

# All but PyTorch and its CUDA libraries: exact versions, checked by their hashes.
COPY constraints.txt ./
RUN awk '/^[a-z]/ { kept = !/^(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==/ } kept' constraints.txt > locked.txt \
    && pip install --no-deps --require-hashes --requirement locked.txt

# PyTorch in the same versions, in the build that was asked for. These wheels are not PyPI's, so their hashes are not in the file.
RUN sed -nE "s/^((torch|torchvision)==[^ ]+).*/\1+${TORCH_INDEX}/p" constraints.txt > torch.txt \
    && pip install --extra-index-url "${TORCH_WHEELS}/${TORCH_INDEX}" --requirement torch.txt

COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-deps . \
    && pip check \
    && python -c 'import torchvision' \
    && petechia --version


FROM python:3.12-slim

RUN groupadd --gid 10001 petechia \
    && useradd --uid 10001 --gid 10001 --create-home --shell /usr/sbin/nologin petechia \
    && install -d -o 10001 -g 10001 /data /out

COPY --from=build /opt/petechia /opt/petechia

# Caches lie below /out, so that they last and are writable for whoever may write there.
ENV PATH=/opt/petechia/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PETECHIA_CACHE=/out/.cache/petechia \
    XDG_CACHE_HOME=/out/.cache \
    MPLCONFIGDIR=/tmp/matplotlib

VOLUME ["/data", "/out"]
WORKDIR /out
USER 10001:10001

EXPOSE 8765
ENTRYPOINT ["petechia"]
CMD ["--help"]
