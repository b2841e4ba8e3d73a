# The plugin's root file system: `docker build -t flannelpy-rootfs .`, Docker 20.10 or newer, classic builder or
# BuildKit. So no syntax line and no `RUN --mount`: a Docker without buildx knows neither.
#
# Behind a proxy that re-signs TLS, put its CA bundle beside this file as `ca-certificates.crt`. For another package
# index pass `--build-arg PIP_INDEX_URL=...`. Without either, pip asks the public index.

# Debian 13: security support to 2028, long-term support to 2030; Debian 12's regular support ended in June 2026.
# Its Python 3.13 starts 5 ms later than 12's 3.11 and imports as fast. glibc, since protobuf has no wheel for musl.
FROM debian:trixie-slim AS system
ARG DEBIAN_FRONTEND=noninteractive

# Packages are unpacked, not installed: their scripts, and with them dpkg, perl and a shell, stay outside. An empty
# status file makes apt fetch the whole closure; the packages skipped serve only those scripts. Alternatives are made
# by scripts too, so iptables is called by its full names: iptables-nft, iptables-legacy. The copyright files stay,
# and status.d tells scanners what is inside.
RUN set -eu; \
    apt-get -qq update; \
    apt-get -qq install --no-install-recommends python3-venv >/dev/null; \
    install -d -o _apt /debs/partial; \
    apt-get -qq install --no-install-recommends --download-only \
        -o Dir::State::status=/dev/null -o Dir::Cache::archives=/debs \
        python3-minimal libpython3-stdlib libstdc++6 nftables iptables; \
    rm -rf /var/lib/apt/lists/*; \
    mkdir -p /rootfs/usr/bin /rootfs/usr/sbin /rootfs/usr/lib /rootfs/usr/lib64 /rootfs/var/lib/dpkg/status.d; \
    install -d -m 1777 /rootfs/tmp; \
    for dir in bin sbin lib lib64; do ln -s "usr/$dir" "/rootfs/$dir"; done; \
    for deb in /debs/*.deb; do \
        name="$(dpkg-deb -f "$deb" Package)"; \
        case "$name" in \
            debconf | dpkg | tar | perl* | readline-common | libacl1 | libselinux1 | libpcre2-*) continue ;; \
            libdb5* | media-types | openssl-provider-legacy | tzdata) continue ;; \
        esac; \
        dpkg-deb -x "$deb" /rootfs; \
        dpkg-deb -f "$deb" > "/rootfs/var/lib/dpkg/status.d/$name"; \
    done; \
    cd /rootfs; \
    find usr/share/doc -type f ! -name copyright -delete; \
    rm -rf usr/share/locale usr/share/man usr/share/lintian usr/share/bug usr/lib/*/gconv usr/lib/python3*/pydoc_data

# etcd3 comes as source only: it is built with the locked tools, not with whatever build isolation would fetch.
# Compiling cuts the imports from 1.2 s to 0.3 s; "unchecked" lets neither a new mtime nor a read-only root undo that.
# The sources stay for tracebacks, and because overlay/etcd_channel.py reads etcd3's.
FROM system AS libraries
ARG PIP_INDEX_URL
COPY requirements.lock requirements-build.lock ca-certificates.cr[t] /build/
RUN set -eu; \
    cd /build; \
    if [ -e ca-certificates.crt ]; then export PIP_CERT=/build/ca-certificates.crt; fi; \
    export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1; \
    python3 -m venv venv; \
    venv/bin/pip -q install --require-hashes --only-binary :all: -r requirements-build.lock; \
    venv/bin/pip -q install --require-hashes --only-binary :all: --no-binary etcd3 --use-pep517 --no-build-isolation \
        --no-compile --target /rootfs/usr/lib/python3/dist-packages -r requirements.lock; \
    python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /rootfs -p / /rootfs/usr/lib/python3*; \
    for tool in nft iptables-nft iptables-legacy ip6tables-nft ip6tables-legacy; do chroot /rootfs "$tool" --version; done; \
    chroot /rootfs python3 -c "import docker, flask, grpc, gunicorn, jeepney, prometheus_client, pyroute2, sqlite3, ssl"

# Last, so that a change of our sources rebuilds this little alone.
FROM libraries AS sources
COPY overlay /app/overlay
COPY ipam /app/ipam
COPY driver /app/driver
COPY plugin /app/plugin
# The little that importlib.metadata needs to tell the version: an installation would want all of the checkout.
RUN set -eu; \
    version="$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' /app/plugin/__init__.py)"; \
    test -n "$version"; \
    mkdir "/app/flannelpy-$version.dist-info"; \
    printf 'Metadata-Version: 2.1\nName: flannelpy\nVersion: %s\n' "$version" \
        > "/app/flannelpy-$version.dist-info/METADATA"; \
    python3 -m compileall -q --invalidation-mode unchecked-hash /app

# The command line under its own name, for an operator inside the plugin: `runc exec ID flannelpy audit`.
RUN printf '#!/usr/bin/python3\nimport sys\nsys.path.insert(0, "/app")\nfrom plugin.__main__ import main\nmain()\n' \
        > /flannelpy && chmod 755 /flannelpy

FROM scratch
COPY --from=libraries /rootfs/ /
COPY --from=sources /app/ /app/
COPY --from=sources /flannelpy /usr/bin/flannelpy
WORKDIR /app
ENTRYPOINT ["python3", "-m", "plugin"]
