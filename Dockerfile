# gia in a container, weights inside: docs/install.md says how to build and to run it.
#
# For Nvidia cards the same file with another build of PyTorch, which brings CUDA along; nothing
# else differs, so there is no second file:
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 -t gia:cuda .
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# What gia stands on. Rebuilt when pyproject.toml changes, and PyTorch only for other pins.
FROM ${BASE} AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/gia
ENV PATH=/opt/gia/bin:${PATH}
WORKDIR /build
COPY constraints.txt ./
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install -c constraints.txt --index-url "${TORCH_INDEX}" torch
COPY pyproject.toml ./
ARG EXTRAS=dng,jxl,exr,watch
RUN python -c "import sys, tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = [name for name in sys.argv[1].split(',') if name]; \
print(*project['dependencies'], *sum(map(project['optional-dependencies'].get, extras), []), sep='\n')" \
    "${EXTRAS}" > requirements.txt \
    && pip install -c constraints.txt -r requirements.txt

# gia itself, laid out like the environment; the weights apart, for a layer that code leaves alone.
FROM dependencies AS package
RUN pip install -c constraints.txt hatchling
COPY pyproject.toml README.md LICENSE ./
COPY weights weights
COPY gia_cli gia_cli
RUN pip install --no-deps --no-build-isolation --ignore-installed --prefix /code . \
    && cd /code && inside=$(echo lib/*/site-packages/gia_cli) \
    && mkdir -p "/weights/${inside}" && mv "${inside}/_weights" "/weights/${inside}/"

FROM ${BASE}
COPY --from=dependencies /opt/gia /opt/gia
COPY --from=package /weights /opt/gia
COPY --from=package /code /opt/gia
# Whoever it runs as may have no name and no home; /tmp is the one folder that it may write to, and
# if it is read-only too, gia does without.
ENV PATH=/opt/gia/bin:${PATH} HOME=/tmp PYTHONDONTWRITEBYTECODE=1
WORKDIR /photos
# nobody: in a number, so that Kubernetes can see that it is not root.
USER 65534:65534
ENTRYPOINT ["gia"]
CMD ["--help"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gia" \
      org.opencontainers.image.description="Clean, bright 16-bit pictures from RAW photos taken in near darkness (GIA-Net)" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
