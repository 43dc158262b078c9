#!/usr/bin/env bash
# Makes what the cluster's services prove themselves by: secrets.sh [DIR]. What is there is kept, so that it can be run
# again to add what is missing: the cluster key (signs tickets), the admin token, S3 credentials, an authority of our
# own, and for each role a certificate with its key. Needs openssl.
set -euo pipefail
dir=${1:-$(dirname "$0")/secrets}
cluster=${FOREBAY_CLUSTER_ID:-forebay}
domain=${FOREBAY_NETWORK:-cluster.forebay}
days=${FOREBAY_CERT_DAYS:-825}
umask 077
mkdir -p "$dir"
cd "$dir"

[ -e cluster.key ] || echo "k1 $(openssl rand -hex 32)" >cluster.key
[ -e admin.token ] || openssl rand -hex 32 >admin.token
if [ ! -e aws ]; then
  id=$(openssl rand -hex 10) key=$(openssl rand -hex 20)
  printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$id" "$key" >aws
  printf '{"identities":[{"name":"forebay","credentials":[{"accessKey":"%s","secretKey":"%s"}],' "$id" "$key" >s3.json
  printf '"actions":["Admin","Read","Write","List","Tagging"]}]}\n' >>s3.json
fi

if [ ! -e ca.key ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "$days" -subj "/CN=$cluster authority" \
    -keyout ca.key -out ca.pem 2>/dev/null
fi
for role in master worker gateway client admin; do
  [ ! -e "$role.pem" ] || continue
  names="DNS:localhost,IP:127.0.0.1,URI:forebay://$cluster/$role"
  case $role in
    master) names+=",DNS:master-1,DNS:master-2,DNS:*.$domain" ;;
    worker) names+=",DNS:*.$domain" ;;
    gateway) names+=",DNS:gateway" ;;
  esac
  # More names, such as those of a Kubernetes service: FOREBAY_MASTER_NAMES=DNS:…,DNS:… and so on.
  more=FOREBAY_${role^^}_NAMES
  [ -z "${!more:-}" ] || names+=",${!more}"
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$role" -keyout "$role.key" \
    -out "$role.csr" 2>/dev/null
  openssl x509 -req -in "$role.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days "$days" -out "$role.crt" \
    -extfile <(echo "subjectAltName=$names") 2>/dev/null
  cat "$role.key" "$role.crt" >"$role.pem"
  rm -f "$role.csr" "$role.key" "$role.crt"
done
# The folder is for its owner alone. Containers see single files of it, as a user of their own.
chmod 0444 cluster.key admin.token aws s3.json ca.pem ./*.pem
chmod 0400 ca.key
