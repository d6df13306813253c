//go:build !knarr_bundle || !(amd64 || arm64 || arm)

package bundle

const embeddedManifest, embeddedArchive, ingressManifest, ingressArchive = "", "", "", ""
