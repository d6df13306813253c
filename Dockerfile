# knarr as a container: a node for trying things out, for CI, and for hosts where
# everything is a container. Build dist/ first (scripts/build):
#
#   docker build -t knarr .
#   docker run -d --name knarr --privileged --tmpfs /run \
#       -v knarr:/var/lib/knarr -v knarr-kubelet:/var/lib/kubelet \
#       -p 6443:6443 knarr server
#   docker exec knarr knarr kubectl get nodes
#
# It needs --privileged, since it mounts, makes network and cgroup namespaces and
# programs nftables for its pods: whoever controls it controls the host. The two
# volumes must be real file systems, not overlayfs, on which the pods' own
# overlays cannot be stacked. A restart keeps the cluster but not its pods: they
# end with the container and are started again.
#
# The image holds the executable, the CA certificates that image pulls need,
# and nothing else: what knarr executes it brings along.
FROM debian:stable-slim AS base
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
RUN mkdir -p /image/bin /image/etc/ssl/certs /image/var /image/tmp /image/root /image/run && chmod 1777 /image/tmp && \
    cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ && \
    ln -s /run /image/var/run && \
    for name in kubectl crictl ctr; do ln -s knarr /image/bin/$name; done && \
    printf 'root:x:0:0:root:/root:/bin/sh\n' >/image/etc/passwd && printf 'root:x:0:\n' >/image/etc/group

FROM scratch
# dist/knarr-arm64 or dist/knarr-armhf for the other architectures.
ARG BINARY=dist/knarr
COPY --from=base /image /
COPY --chmod=755 ${BINARY} /bin/knarr
ENV PATH=/bin
VOLUME ["/var/lib/knarr", "/var/lib/kubelet", "/var/log"]
EXPOSE 6443/tcp 10250/tcp 8472/udp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["/bin/knarr", "status"]
ENTRYPOINT ["/bin/knarr"]
CMD ["server"]
