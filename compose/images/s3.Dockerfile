# An S3 server to try things with (SeaweedFS). Your own S3 needs none of this.
FROM python:3.11-slim-bookworm
COPY requirements/s3-server.txt /requirements/s3-server.txt
RUN python3 -m venv /opt/s3 \
    && /opt/s3/bin/pip install -q --no-cache-dir --require-hashes --no-deps -r /requirements/s3-server.txt \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin s3 \
    && install -d -o s3 -g s3 /var/lib/s3
ENV PATH=/opt/s3/bin:$PATH
USER 10001:10001
STOPSIGNAL SIGKILL
HEALTHCHECK --interval=3s --timeout=3s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8333/healthz', timeout=2)"]
CMD ["weed", "-logtostderr=true", "server", "-dir=/var/lib/s3", "-ip=s3", "-ip.bind=0.0.0.0", "-filer", "-s3", \
    "-s3.port=8333", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.config=/run/secrets/s3", \
    "-master.volumeSizeLimitMB=1024", "-volume.max=0", "-master.telemetry=false"]
