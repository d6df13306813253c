package collector

import (
	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout"
	"github.com/traefik/traefik/v3/pkg/config/static"
)

func Collect(*static.Configuration) error { return leftout.ErrLeftOut }
