# ZooKeeper from Debian's packages.
FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        openjdk-17-jre-headless libzookeeper-java libslf4j-java \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin zookeeper \
    && install -d -o zookeeper -g zookeeper /var/lib/zookeeper
COPY compose/images/zoo.cfg /etc/forebay/zoo.cfg
USER 10001:10001
HEALTHCHECK --interval=3s --timeout=3s --start-period=30s \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/2181 && echo ruok >&3 && grep -q imok <&3"]
ENTRYPOINT ["java", "-Xmx256m", "-XX:+UseSerialGC", "-cp", \
    "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar:/usr/share/java/servlet-api.jar:/usr/share/java/jetty9-util-ajax.jar", \
    "org.apache.zookeeper.server.quorum.QuorumPeerMain", "/etc/forebay/zoo.cfg"]
