# Two stages: the wheel and its dependencies are put into a virtual environment where pip is, and only the environment
# goes into the image. No compiler, no pip, not root.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /venv
COPY pyproject.toml README.md LICENSE ./
COPY shadowproxy shadowproxy
RUN /venv/bin/pip install --no-cache-dir '.[embedded,plots]' \
    && /venv/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin shadowproxy \
    && install -d -o shadowproxy -g shadowproxy /etc/shadowproxy /var/lib/shadowproxy
COPY --from=build /venv /venv
COPY deploy/image.yaml /etc/shadowproxy/shadowproxy.yaml
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
# Relative paths of the configuration (redis.data_dir) are below here.
WORKDIR /var/lib/shadowproxy
EXPOSE 8080 9100 9101 9102
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9101/healthz', timeout=2)"]
ENTRYPOINT ["shadowproxy"]
CMD ["run", "--config", "/etc/shadowproxy/shadowproxy.yaml"]
