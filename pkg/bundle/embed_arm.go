//go:build knarr_bundle

package bundle

import _ "embed"

// Made by scripts/build-helpers; the build tag says that they are there.
var (
	//go:embed embed/arm/manifest.json
	embeddedManifest string
	//go:embed embed/arm/bundle.tar.zst
	embeddedArchive string
	//go:embed embed/arm/ingress/manifest.json
	ingressManifest string
	//go:embed embed/arm/ingress/bundle.tar.zst
	ingressArchive string
)
