package metrics

import (
	"context"

	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout"
	"github.com/rs/zerolog/log"
	otypes "github.com/traefik/traefik/v3/pkg/observability/types"
)

func RegisterInfluxDB2(ctx context.Context, _ *otypes.InfluxDB2) Registry {
	log.Ctx(ctx).Error().Err(leftout.ErrLeftOut).Msg("InfluxDB2 metrics")
	return NewVoidRegistry()
}

func StopInfluxDB2() {}
