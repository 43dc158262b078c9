#!/usr/bin/env bash
# A Docker engine by hand for tests, and everything it leaves behind taken away again. Sourced by run.sh; needs root.
#
#   engine_start DIR    dockerd below DIR; sets DOCKER_HOST
#   engine_images DIR   the base images, made of Debian's packages (nothing is pulled)
#   engine_stop         ends it: containers, mounts, network, firewall rules and forwarding are as before

engine_start() {
  engine_dir=$1
  mkdir -p "$engine_dir"
  export DOCKER_HOST="unix://$engine_dir/docker.sock"
  unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH
  iptables-save >"$engine_dir/rules"
  cat /proc/sys/net/ipv4/ip_forward >"$engine_dir/ip_forward"
  setsid dockerd --data-root "$engine_dir/root" --exec-root "$engine_dir/exec" -H "$DOCKER_HOST" \
    --pidfile "$engine_dir/pid" </dev/null >"$engine_dir/log" 2>&1 &
  engine_pid=$!
  local deadline=$((SECONDS + 60))
  until docker version >/dev/null 2>&1; do
    kill -0 "$engine_pid" 2>/dev/null || { tail -5 "$engine_dir/log" >&2; return 1; }
    [ $SECONDS -lt $deadline ] || { echo 'the engine does not come up' >&2; return 1; }
    sleep 0.2
  done
}

engine_stop() {
  [ -n "${engine_pid:-}" ] || return 0
  kill "$engine_pid" 2>/dev/null || true
  wait "$engine_pid" 2>/dev/null || true
  engine_pid=
  ip link delete docker0 2>/dev/null || true
  local table
  for table in filter nat; do  # a table that was not there is in no saved rules: it is emptied
    iptables -t "$table" -F && iptables -t "$table" -X
  done
  iptables -P FORWARD ACCEPT
  iptables-restore <"$engine_dir/rules"
  cat "$engine_dir/ip_forward" >/proc/sys/net/ipv4/ip_forward
  local mounted
  awk -v dir="$engine_dir/" 'index($2, dir) == 1 {print $2}' /proc/mounts | sort -r | while read -r mounted; do
    umount -l "$mounted"
  done
}

# A cached tar in CACHE makes the next run quicker. CI machines often check TLS by an authority of their own.
engine_images() {
  local cache=$1 tar="$1/base.tar"
  mkdir -p "$cache"
  if [ ! -e "$tar" ]; then
    mmdebstrap --quiet --format=tar --variant=minbase \
      --include=python3,python3-venv,python3-pip,ca-certificates,fuse3 \
      --customize-hook='mkdir -p "$1/usr/local/bin" && ln -s /usr/bin/python3 "$1/usr/local/bin/python"' \
      --customize-hook='cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"' \
      --customize-hook='rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*' \
      bookworm "$tar.new" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
    mv "$tar.new" "$tar"
  fi
  docker import "$tar" python:3.11-slim-bookworm >/dev/null
  docker tag python:3.11-slim-bookworm debian:bookworm-slim
}
