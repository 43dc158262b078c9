#!/usr/bin/env bash
# Proves compose.yaml on a real engine: images are built, the cluster comes up, files are read through the gateway's
# mount on the host and from a second container, README's curl lines work, Prometheus scrapes every service and spans of
# every service arrive where the collector would be, a worker and the leading master are killed, the workers are scaled,
# and nothing is left afterwards. Needs root, /dev/fuse and some minutes. Prometheus is Debian's; the collector is a
# receiver of our own; Grafana and Jaeger are left out.
#
# With DOCKER_HOST in the environment that engine is used; otherwise one is started, with base images made of Debian's
# packages. FOREBAY_CACHE keeps them for the next run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
work=$(mktemp -d /tmp/forebay-compose-XXXXXX)
cache=${FOREBAY_CACHE:-$repo/.tools/images}
mount=$work/mount
# shellcheck source=compose/test/engine.sh
. "$here/engine.sh"

set -a
# shellcheck disable=SC1091
. "$repo/compose/.env"
FOREBAY_SECRETS=$work/secrets FOREBAY_MOUNT=$mount FOREBAY_MEM_TOTAL=1g FOREBAY_MEM_WORKER=64MiB
FOREBAY_OTLP_ENDPOINT=http://collector:4318 FOREBAY_TRACE_RATIO=1
set +a

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }
fail() { say "FAILED: $*"; exit 1; }
compose() { docker-compose --project-directory "$repo/compose" -f "$repo/compose/compose.yaml" -p forebay-test "$@"; }
ask() { curl -fsS --max-time 20 --cacert "$work/secrets/ca.pem" --cert "$work/secrets/admin.pem" "$@"; }
names() { compose ps -q "$1"; }

eventually() {  # SECONDS WHAT COMMAND...
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || fail "$what"
    sleep 0.5
  done
  say "$what"
}

healthy() {  # SERVICE COUNT
  local id count=0
  for id in $(names "$1"); do
    [ "$(docker inspect -f '{{.State.Health.Status}}' "$id")" = healthy ] && count=$((count + 1))
  done
  [ "$count" = "$2" ]
}

live_workers() { ask "https://localhost:$1/v1/status" | python3 "$here/members.py" | grep -qx "$2"; }
all_scraped() {  # COUNT
  curl -fsS --max-time 20 "http://127.0.0.1:$FOREBAY_PROMETHEUS_PORT/api/v1/targets" |
    python3 "$here/scraped.py" 2>"$work/scrapes" | grep -qx "$1 of $1"
}
all_sent() {
  local signal service
  docker logs forebay-test-collector >"$work/sent" 2>&1
  for signal in traces metrics; do
    for service in master worker fuse; do grep -qx "/v1/$signal forebay-$service" "$work/sent" || return 1; done
  done
}
put() { "$repo/.venv/bin/python" "$here/data.py" "http://127.0.0.1:$FOREBAY_S3_PORT" "$FOREBAY_BUCKET" "$work/secrets/aws" "$1" >"$work/$1.sums"; }
on_host() { (cd "$mount/data" && timeout 60 sha256sum --quiet -c "$work/$1.sums"); }
in_container() { timeout 60 docker-compose --project-directory "$repo/compose" -f "$repo/compose/compose.yaml" -p forebay-test \
  run -T --rm reader sh -c 'cd /mnt/forebay/data && sha256sum --quiet -c -' <"$work/$1.sums"; }

logs_of_failure() {
  tail -30 "$work/up.log" || true
  compose ps || true
  compose logs --tail=25 2>/dev/null | cut -c1-300 || true
  cat "$work/scrapes" "$work/sent" 2>/dev/null || true
}

finish() {
  local status=$?
  trap - EXIT
  [ $status = 0 ] || logs_of_failure
  docker rm -f forebay-test-collector >/dev/null 2>&1 || true
  compose --profile reader --profile metrics down -v --remove-orphans -t 20 >/dev/null 2>&1 || true
  umount -l "$mount/data" 2>/dev/null || true
  umount -l "$mount" 2>/dev/null || true
  engine_stop
  rm -rf --one-file-system "$work"
  exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

if [ -z "${DOCKER_HOST:-}" ]; then
  engine_start "$work/engine"
  engine_images "$cache"
  say 'the engine is up, with base images'
fi
mkdir -p "$mount"
mount --bind "$mount" "$mount"
mount --make-rshared "$mount"
mkdir "$mount/data"
"$repo/compose/secrets.sh" "$work/secrets"

compose build --quiet >"$work/build.log" 2>&1 || { tail -30 "$work/build.log"; fail 'images'; }
docker build -q -t "$(sed -n 's|^ *image: \(prom/.*\)|\1|p' "$repo/compose/compose.yaml")" -f "$here/prometheus.Dockerfile" \
  "$here" >>"$work/build.log" 2>&1 || { tail -30 "$work/build.log"; fail 'the image of Prometheus'; }
say 'images are built'
for image in master worker fuse; do
  [ "$(docker image inspect -f '{{.Config.User}}' "forebay-$image:$FOREBAY_TAG")" = "$([ $image = fuse ] || echo 10001:10001)" ] ||
    fail "the user of forebay-$image"
done
docker run --rm --entrypoint python "forebay-master:$FOREBAY_TAG" -c 'import forebay_worker' 2>/dev/null &&
  fail 'the image of the master has the worker in it'

compose up -d >"$work/up.log" 2>&1 || { cat "$work/up.log"; fail up; }
docker run -d --name forebay-test-collector --network "$FOREBAY_NETWORK" --network-alias collector --entrypoint python \
  -v "$here/receiver.py:/receiver.py:ro" "forebay-master:$FOREBAY_TAG" /receiver.py >/dev/null
compose --profile metrics up -d prometheus >>"$work/up.log" 2>&1 || { tail "$work/up.log"; fail 'the profile metrics'; }
eventually 90 'three workers, two masters and the gateway are healthy' healthy gateway 1
{ healthy worker 3 && healthy master-1 1 && healthy master-2 1; } || fail 'not all are healthy'
eventually 30 'a master sees three live workers' live_workers "$FOREBAY_MASTER_1_PORT" 3

for set in first second third; do put $set; done
on_host first || fail 'read through the mount on the host'
say 'read through the mount on the host'
in_container first || fail 'read in a second container'
say 'read through the mount in a second container'

cd "$work"  # README's lines name secrets/… and localhost:7070
printf 'fail\nsilent\nshow-error\nmax-time = 20\n' >.curlrc
sed -n '/^## Run it with Docker/,/^## /p' "$repo/README.md" | grep -E '^curl ' >curls || fail 'README has no curl lines'
while read -r line; do
  CURL_HOME=$work bash -c "${line//localhost:7070/localhost:$FOREBAY_MASTER_1_PORT}" >answer </dev/null || fail "$line"
  [ -s answer ] || fail "$line: no answer"
done <curls
say "README's $(wc -l <curls) curl lines"

eventually 60 'Prometheus scrapes two masters, three workers and the gateway' all_scraped 6
eventually 60 'spans and metrics of all services arrive where the collector would be' all_sent
docker rm -f forebay-test-collector >/dev/null  # services go on without it

victim=$(names worker | head -1)
docker kill "$victim" >/dev/null
on_host first && on_host second || fail 'read with a killed worker'
say 'read with a killed worker'
docker start "$victim" >/dev/null
eventually 60 'the worker is back' healthy worker 3

leader=$(ask "https://localhost:$FOREBAY_MASTER_1_PORT/v1/status" | python3 "$here/members.py" --leader)
docker kill "$(names "$leader")" >/dev/null
other=$FOREBAY_MASTER_1_PORT
[ "$leader" = master-2 ] || other=$FOREBAY_MASTER_2_PORT
on_host third && in_container third || fail "read with $leader killed"
ask "https://localhost:$other/v1/list" -d '{"path": "/third"}' | grep -q part-4 || fail 'the other master lists'
say "read with $leader killed"
docker start "$(docker ps -aqf "label=com.docker.compose.service=$leader")" >/dev/null
eventually 60 "$leader is back" healthy "$leader" 1

compose up -d --scale worker=4 >>"$work/up.log" 2>&1 || fail 'scale'
eventually 60 'a fourth worker is healthy' healthy worker 4
eventually 30 'the master that stayed sees four live workers' live_workers "$other" 4
on_host first && on_host second || fail 'read with four workers'

compose up -d --scale worker=4 --force-recreate --no-deps gateway >>"$work/up.log" 2>&1 || fail 'replace'
eventually 60 'the gateway was replaced' healthy gateway 1
on_host third || fail 'read through the next gateway'

compose --profile metrics down -v -t 20 >>"$work/up.log" 2>&1
grep -q " $mount/data " /proc/mounts && fail 'the mount is still there'
[ -z "$(docker ps -aq)" ] || fail 'containers are left'
[ -z "$(docker volume ls -q)" ] || fail 'volumes are left'
docker network inspect "$FOREBAY_NETWORK" >/dev/null 2>&1 && fail 'the network is left'
say 'down: no container, volume, network or mount is left'
