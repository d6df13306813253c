package main

// pageHead opens docs/conformance.md: the counts, and the head of the table.
const pageHead = `# Conformance

Kubernetes' own conformance suite (k8s.io/kubernetes/test/e2e of the version that knarr embeds, every test tagged
[Conformance]) against two nodes of knarr, one ` + "`knarr server` and one `knarr agent`" + `, on test hosts without a network. They
have all their defaults but two: a mirror for registry.k8s.io, and thresholds of the kubelet that let a test machine's
disk be full. Written by

    sudo tests/conformance/run -page docs/conformance.md

| tests | passed | failed | not run |
|---|---|---|---|
| %d | %d | %d | %d |

How it is done: the suite is built from the Go module, unmodified. Its images have upstream's exact names and are made
from the programs of the same module and Debian's packages; both nodes import them, and a registry on a test host
serves the few that tests always pull. kubectl is knarr's. Ginkgo runs the tests side by side, then the serial ones one
by one. On two cores that takes about an hour.

A test that has passed is not run again, so the same command goes on where a run has ended; -again starts anew. The last
column says which build a test has passed on. Continuous integration runs tests/conformance/cross-section.

| test | result | date | knarr |
|---|---|---|---|
`
