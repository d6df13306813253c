package metrics

import (
	"context"

	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout"
	"github.com/rs/zerolog/log"
	otypes "github.com/traefik/traefik/v3/pkg/observability/types"
)

func RegisterDatadog(ctx context.Context, _ *otypes.Datadog) Registry {
	log.Ctx(ctx).Error().Err(leftout.ErrLeftOut).Msg("Datadog metrics")
	return NewVoidRegistry()
}

func StopDatadog() {}
