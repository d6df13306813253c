// Package leftout says so where somebody configures what knarr's Traefik was
// built without: see the folder "without" beside it.
package leftout

import "errors"

// ErrLeftOut is the reason why a provider, a plugin or an exporter does not start.
var ErrLeftOut = errors.New("left out of the Traefik that knarr brings along: run Traefik's own image to have it")
