# The course in a container:  docker compose -f docker/compose.yaml up
# BASE is any Debian image with Python 3.11 or 3.12, also one made here (aiinfra cluster
# python-image); SET=start makes a small image, TORCH=cpu one without CUDA. A mirror of the package
# index: --build-arg PIP_INDEX_URL=...; a network's own certificate: docker/certificates.
ARG BASE=python:3.11-slim

# The tools without the environment: what .devcontainer builds on.
FROM ${BASE} AS base
COPY docker/certificates /usr/local/share/ca-certificates/course
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
    ca-certificates git make \
 && update-ca-certificates \
 && apt-get clean && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 --shell /bin/bash learner
# What the system trusts, for pip and for uv, which reads pip's settings.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt

FROM base AS lab
ARG SET=all
ARG TORCH=default
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN install --directory --owner=learner /course
USER learner
WORKDIR /course
# First what decides the environment, so that an edit of a notebook does not install it again.
COPY --chown=learner pyproject.toml requirements.lock requirements-start.lock README.md LICENSE ./
COPY --chown=learner scripts scripts
COPY --chown=learner aiinfra_lab/__init__.py aiinfra_lab/
RUN python3 scripts/environment.py env --set "${SET}" --torch "${TORCH}" && rm -rf ~/.cache
COPY --chown=learner . .
# Made here, so that a volume mounted on it belongs to the learner.
RUN mkdir -p work
ENV PATH=/course/.venv/bin:${PATH}
EXPOSE 8888
CMD ["aiinfra", "lab", "--ip", "0.0.0.0", "--port", "8888", "--no-browser"]
