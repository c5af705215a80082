# Two images of the worker:
#
#   docker build -t orchestrator-worker .                   with a shell and coreutils, for shell steps
#   docker build -t orchestrator-worker --target bare .     with nothing else: http and func steps
#
# For steps that need more, take the binary into an image of your own:
#
#   FROM debian:bookworm-slim
#   RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl jq
#   COPY --from=orchestrator-worker /usr/local/bin/orchestrator-worker /usr/local/bin/
#   USER 65532:65532
#   ENTRYPOINT ["orchestrator-worker"]
#   CMD ["run"]
#
# The build takes --build-arg REVISION=$(git rev-parse --short=12 HEAD), which `--version` prints.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
ARG REVISION=""
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    if [ -n "$REVISION" ]; then export ORCHESTRATOR_WORKER_COMMIT="$REVISION"; fi; \
    cargo build --locked --release --bin orchestrator-worker && \
    install -D target/release/orchestrator-worker /out/usr/local/bin/orchestrator-worker
# What the program opens, for an image that has nothing else.
RUN cd /out && mkdir -p etc/ssl/certs lib64 tmp && chmod 1777 tmp && \
    ldd usr/local/bin/orchestrator-worker | grep -o '/[^ ]*' | xargs -I{} install -D {} ./{} && \
    cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/ && \
    echo 'worker:x:65532:65532::/tmp:/sbin/nologin' > etc/passwd && \
    echo 'worker:x:65532:' > etc/group

FROM scratch AS bare
COPY --from=build /out /
ARG REVISION=""
LABEL org.opencontainers.image.title="orchestrator-worker" \
      org.opencontainers.image.description="Runs the workflows of a MySQL orchestrator, without a shell" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$REVISION"
ENV PATH=/usr/local/bin
USER 65532:65532
EXPOSE 9400
ENTRYPOINT ["/usr/local/bin/orchestrator-worker"]
CMD ["run"]

FROM debian:bookworm-slim AS shell
COPY --from=build /out/usr/local/bin/orchestrator-worker /usr/local/bin/orchestrator-worker
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ARG REVISION=""
LABEL org.opencontainers.image.title="orchestrator-worker" \
      org.opencontainers.image.description="Runs the workflows of a MySQL orchestrator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$REVISION"
USER 65532:65532
EXPOSE 9400
ENTRYPOINT ["/usr/local/bin/orchestrator-worker"]
CMD ["run"]
