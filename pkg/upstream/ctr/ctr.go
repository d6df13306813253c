// Package ctr is containerd's ctr, unpatched, aimed at the containerd in the knarr process.
package ctr

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/cmd/ctr/app"
)

// Run runs one ctr command with args (without the program's name). address and namespace are the defaults of ctr's
// flags of those names; empty leaves ctr's own.
func Run(ctx context.Context, address, namespace string, args []string) error {
	line := []string{"ctr"}
	if address != "" {
		line = append(line, "--address", address)
	}
	if namespace != "" {
		line = append(line, "--namespace", namespace)
	}
	if err := app.New().Run(ctx, append(line, args...)); err != nil {
		return fmt.Errorf("ctr: %w", err)
	}
	return nil
}
