# An image for Kubernetes operators that are written with kopf:
#   docker build -f docker/operator.Dockerfile -t aiinfra/operator .
# kopf, the client of Kubernetes and this package, at the versions and hashes of requirements.lock.
# It runs as a user without a name or rights, also on a read-only file system; the handlers come
# with a volume or by FROM this image: args [run, --all-namespaces, /handlers/training.py].
# BASE is any Debian image with Python 3.11 or 3.12, also one made here (aiinfra cluster
# python-image). A mirror of the package index: --build-arg PIP_INDEX_URL=...; a network's own
# certificate: docker/certificates.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
COPY docker/certificates /usr/local/share/ca-certificates/course
RUN update-ca-certificates
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
WORKDIR /build
# pip stays here: the image has nothing that could install more.
RUN python3 -m venv venv && python3 -m venv --without-pip /operator
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# What the rooms below the chapters import, which is far from all that the package may need.
ARG PACKAGES="kopf kubernetes cryptography lazy-loader platformdirs prometheus-client psutil pydantic-settings rich typer"
COPY requirements.lock ./
COPY scripts/pins.py scripts/uvtool.py docker/locked.py scripts/
RUN venv/bin/python scripts/locked.py requirements.lock hatchling >build.lock \
 && venv/bin/python scripts/locked.py requirements.lock ${PACKAGES} >operator.lock
ENV OPTIONS="--quiet --no-compile --no-deps --only-binary=:all:"
RUN venv/bin/pip install ${OPTIONS} --require-hashes --requirement build.lock \
 && venv/bin/pip --python /operator/bin/python install ${OPTIONS} --require-hashes \
    --requirement operator.lock \
 && /operator/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /operator/lib
COPY pyproject.toml README.md LICENSE ./
COPY cluster cluster
COPY aiinfra_lab aiinfra_lab
RUN venv/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir wheels . \
 && venv/bin/pip --python /operator/bin/python install ${OPTIONS} wheels/*.whl \
 && /operator/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
    /operator/lib/python3*/site-packages/aiinfra_lab

FROM ${BASE} AS operator
COPY --from=build /operator /operator
# kopf asks for the user's name, and this one is in no list of users. /tmp is the one folder that
# is worth a volume where the file system is read-only.
ENV PATH=/operator/bin:${PATH} USER=operator HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["kopf"]
CMD ["run", "--help"]
