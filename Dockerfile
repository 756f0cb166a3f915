# One image for every process: `docker run sytq api`, `docker run sytq worker`, `docker run sytq db migrate`.
# Works with a read-only root given /tmp and /var/lib/sytq: docker run --read-only --tmpfs /tmp -v data:/var/lib/sytq

FROM python:3.13-slim AS build
# Of sytq, such as otel; none by default.
ARG EXTRAS
WORKDIR /src
RUN python -m venv /opt/sytq
# The locked dependencies first: this layer is kept while only our own code changes.
COPY requirements.lock setup.cfg setup.py pyproject.toml ./
RUN mkdir -p sytq plugins && echo '__version__ = "0"' > sytq/__init__.py && touch plugins/__init__.py \
    && /opt/sytq/bin/pip install --no-cache-dir -c requirements.lock ".${EXTRAS:+[$EXTRAS]}" \
    && /opt/sytq/bin/pip uninstall --yes sytq
COPY . .
# What is in the image, for whoever looks for vulnerable parts of it. pip itself is no part of the service.
RUN /opt/sytq/bin/pip install --no-cache-dir --no-deps . \
    && /opt/sytq/bin/pip uninstall --yes pip \
    && /opt/sytq/bin/python tools/sbom.py > /opt/sytq/sbom.json

FROM python:3.13-slim
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sytq" \
      org.opencontainers.image.description="A task queue service for slow and costly work" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}"
# The first process of a container has to reap what its descendants leave behind; gunicorn's and sytq's do not.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/sytq /opt/sytq
COPY etc /etc/sytq
# A number, so that Kubernetes can see that it is not root.
RUN install -d -o 10001 -g 10001 /var/lib/sytq
USER 10001:10001
WORKDIR /var/lib/sytq
VOLUME /var/lib/sytq
ENV PATH=/opt/sytq/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SYTQ_API__HOST=0.0.0.0 \
    SYTQ_WORKER__HOST=0.0.0.0 \
    SYTQ_WORKER__PORT=8081
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
# Whichever of the two this container is.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-m", "sytq.worker.probe"]
ENTRYPOINT ["tini", "--", "sytq"]
CMD ["api"]
