# One image for every process: `docker run sytq api`, `docker run sytq worker`, `docker run sytq db migrate`.

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/sytq
# The locked dependencies first: this layer is kept while only our own code changes.
COPY requirements.lock setup.cfg setup.py pyproject.toml ./
RUN mkdir -p sytq plugins && touch sytq/__init__.py plugins/__init__.py \
    && /opt/sytq/bin/pip install --no-cache-dir -c requirements.lock . \
    && /opt/sytq/bin/pip uninstall --yes sytq
COPY . .
RUN /opt/sytq/bin/pip install --no-cache-dir --no-deps .

FROM python:3.13-slim
COPY --from=build /opt/sytq /opt/sytq
COPY etc /etc/sytq
# A number, so that Kubernetes can see that it is not root.
RUN install -d -o 10001 -g 10001 /var/lib/sytq
USER 10001:10001
WORKDIR /var/lib/sytq
ENV PATH=/opt/sytq/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SYTQ_API__HOST=0.0.0.0
EXPOSE 8080
STOPSIGNAL SIGTERM
# For the API; the worker has no port, so run it with --no-healthcheck (compose and Kubernetes do).
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "import os, urllib.request as u; port = os.environ.get('SYTQ_API__PORT') or os.environ.get('API_PORT') or os.environ.get('SERVER_PORT') or '8080'; u.urlopen(f'http://127.0.0.1:{port}/healthz/live', timeout=2)"]
ENTRYPOINT ["sytq"]
CMD ["api"]
