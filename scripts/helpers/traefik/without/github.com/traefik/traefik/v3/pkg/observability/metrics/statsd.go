package metrics

import (
	"context"

	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout"
	"github.com/rs/zerolog/log"
	otypes "github.com/traefik/traefik/v3/pkg/observability/types"
)

func RegisterStatsd(ctx context.Context, _ *otypes.Statsd) Registry {
	log.Ctx(ctx).Error().Err(leftout.ErrLeftOut).Msg("Statsd metrics")
	return NewVoidRegistry()
}

func StopStatsd() {}
