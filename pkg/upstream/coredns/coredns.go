// Package coredns is the cluster's name server as a program: what runs in the pods of manifests/coredns.yaml, from
// knarr's own executable. Nothing of it runs in the server's process.
//
// [Run] ends when its context does, and has then given the requests that it is working on the time that the Corefile's
// `lameduck` says.
package coredns

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	clog "github.com/coredns/coredns/plugin/pkg/log"
)

// serverType is how CoreDNS names itself to Caddy (core/dnsserver/register.go:16).
const serverType = "dns"

// Run serves what the Corefile says until ctx ends. It does what coremain.Run does (coremain/run.go:49) but for the
// flags, which it leaves to the caller, and for the signals: those are the caller's, too.
func Run(ctx context.Context, corefile string) error {
	text, err := os.ReadFile(corefile)
	if err != nil {
		return fmt.Errorf("read the Corefile: %w", err)
	}
	if err := dnsserver.Register(); err != nil {
		return err
	}
	clog.SetOutput(os.Stdout)
	caddy.Quiet = true // it would print the listeners in a format of its own
	if _, err := caddy.Start(caddy.CaddyfileInput{Contents: text, Filepath: corefile, ServerTypeName: serverType}); err != nil {
		return fmt.Errorf("start CoreDNS from %s: %w", corefile, err)
	}
	<-ctx.Done()
	return stop()
}

// stop does what a SIGTERM does to CoreDNS (caddy sigtrap_posix.go:50). The instance is not the one that was started if
// the Corefile has changed since.
func stop() error {
	var errs []error
	for _, instance := range caddy.Instances() {
		errs = append(errs, instance.ShutdownCallbacks()...)
	}
	return errors.Join(append(errs, caddy.Stop())...)
}
