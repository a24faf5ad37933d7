# Two images: `docker build --target weft -t weft:0.1.0 .` and `docker build --target weft-proxy -t weft-proxy:0.1.0 .`
#
# Cargo alone builds the programs: the dashboard is in the tree as it was built last. Each image holds its programs and the libraries that they
# load, and nothing else: no shell, no package manager. They run as nobody in particular on a root that they do not write to.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --locked --profile dist --bin weft --bin weft-proxy && \
    install -D -t /programs target/dist/weft target/dist/weft-proxy

FROM debian:bookworm-slim AS roots
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates nftables && rm -rf /var/lib/apt/lists/*
COPY images/rootfs /rootfs
COPY --from=build /programs /usr/bin
# nft is for the init container of pods, which installs the interception rules as root.
RUN /rootfs /roots/weft /usr/bin/weft && /rootfs /roots/weft-proxy /usr/bin/weft-proxy /usr/sbin/nft

FROM scratch AS weft
COPY --from=roots /roots/weft /
ENV PATH=/usr/bin:/usr/sbin
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/usr/bin/weft"]

FROM scratch AS weft-proxy
COPY --from=roots /roots/weft-proxy /
ENV PATH=/usr/bin:/usr/sbin
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/usr/bin/weft-proxy"]
