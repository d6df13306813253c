//go:build knarr_bundle

package bundle

import _ "embed"

// Made by scripts/build-helpers; the build tag says that they are there.
var (
	//go:embed embed/amd64/manifest.json
	embeddedManifest string
	//go:embed embed/amd64/bundle.tar.zst
	embeddedArchive string
	//go:embed embed/amd64/ingress/manifest.json
	ingressManifest string
	//go:embed embed/amd64/ingress/bundle.tar.zst
	ingressArchive string
)
