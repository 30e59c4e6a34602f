#!/bin/sh
# Builds the images of the Dockerfile without Docker, prints their sizes, and runs each service's command in them.
#
#   deploy/images.sh [--base DIR] [--worker] [-- OPTIONS OF buildah build ...]
#
# Needs root, Debian's buildah and debootstrap, and a redis-server (REDIS_SERVER=path if it is not on the PATH). Without --base a
# Debian is made by debootstrap; DIR is one that was, and is cut down as debian:bookworm-slim is. It then stands in for that image, since a machine
# without a registry cannot pull it. --worker builds and runs the worker image too: gigabytes of CUDA.
set -eu

cd "$(dirname "$0")/.."
base='' worker=''
while [ $# -gt 0 ]; do
    case $1 in
        --base) base=$2; shift 2 ;;
        --worker) worker=yes; shift ;;
        --) shift; break ;;
        *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done

folder=$(mktemp -d)
pids=''
end() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    wait
    for container in ${backend_container-} ${worker_container-}; do buildah rm "$container" >/dev/null; done
    rm -rf "$folder"
}
trap end EXIT

if [ -z "$base" ]; then
    base=$folder/debian
    debootstrap --variant=minbase bookworm "$base" >"$folder/debootstrap.log"
fi
# As Debian makes its slim image: without documentation and translations, those of later packages included.
{
    printf 'path-exclude /usr/share/%s/*\n' doc info linda lintian locale man
    echo 'path-include /usr/share/doc/*/copyright'
} >"$base/etc/dpkg/dpkg.cfg.d/slim"
find "$base/usr/share/doc" -type f ! -name copyright -delete
tar -C "$base" --exclude=./usr/share/man/* --exclude=./usr/share/info/* \
    --exclude=./usr/share/locale/* --exclude=./usr/share/lintian/* --exclude=./var/lib/apt/lists/* \
    --exclude=./var/cache/apt/* --exclude=./var/log/* --exclude=./dev/* -cf "$folder/base.tar" .
container=$(buildah from scratch)
buildah add --quiet "$container" "$folder/base.tar" / >/dev/null
buildah commit --quiet --rm "$container" debian:bookworm-slim >/dev/null
rm "$folder/base.tar"

build() {  # TARGET CONTEXT-OPTIONS...: prints what it came to
    target=$1; shift
    buildah build --isolation chroot --target "$target" --tag "rsrefseg-$target" "$@" . >"$folder/build.log" 2>&1 ||
        { tail -40 "$folder/build.log"; exit 1; }
    buildah push --quiet "rsrefseg-$target" "docker-archive:$folder/image.tar"
    pulled=$(gzip -c "$folder/image.tar" | wc -c)
    rm "$folder/image.tar"
    container=$(buildah from "rsrefseg-$target")
    eval "${target}_container=$container"
    echo "rsrefseg-$target: $(buildah images --format '{{.Size}}' "rsrefseg-$target"), $((pulled / 1000000)) MB with gzip"
}

build backend "$@"
[ -z "$worker" ] || build worker "$@"

# Chroot isolation shares the host's network: everything below listens on loopback.
redis_port=6399
"${REDIS_SERVER:-redis-server}" --port $redis_port --bind 127.0.0.1 --save '' --dir "$folder" >"$folder/redis.log" &
pids="$pids $!"

service() {  # CONTAINER CHECK COMMAND...: starts it inside, waits until the check says yes, and asks it to end
    container=$1; shift
    echo "--- $*"
    buildah run --isolation chroot --user 10001:10001 \
        --env REDIS_URL=redis://127.0.0.1:$redis_port/0 --env LABEL_STUDIO_URL=http://127.0.0.1:9 \
        --env LABEL_STUDIO_API_KEY=0123456789012345678901234567890123456789 --env RSREFSEG_DATA=/tmp/data \
        --env RSREFSEG_BASIC_USER=name --env RSREFSEG_BASIC_PASSWORD=password --env RSREFSEG_PORT=19090 \
        "$container" -- sh -c '
            check=$1; shift
            "$@" 2>/tmp/log & pid=$!
            left=120
            until $check; do
                left=$((left - 1))
                [ $left -gt 0 ] && kill -0 $pid || { tail -20 /tmp/log; exit 1; }
                sleep 1
            done
            kill -TERM $pid
            wait $pid && code=0 || code=$?
            echo "user $(id -u), ended with $code on SIGTERM"
            exit $code' sh "$@"
}

service "$backend_container" 'rsrefseg-backend alive' rsrefseg-backend web
service "$backend_container" 'rsrefseg-worker alive' rsrefseg-backend courier
buildah run --isolation chroot "$backend_container" -- python3 -c '
import importlib.util, sys
sys.exit(importlib.util.find_spec("torch") is not None)' && echo 'no torch in the backend image'
if [ -n "$worker" ]; then
    service "$worker_container" 'rsrefseg-worker alive' rsrefseg-worker run --gpus cpu
    service "$worker_container" 'rsrefseg-worker alive' rsrefseg-worker run --gpus cpu --queue train
fi
