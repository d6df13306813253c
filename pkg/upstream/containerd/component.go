package containerd

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins" // registers the plugins
	"github.com/containerd/containerd/v2/cmd/containerd/server"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// Component is a containerd. Use [New].
type Component struct {
	config Config
	tokens func() (map[string]string, error)
}

// New makes the component. identityTokens is asked once, by Prepare; see [Config.TOML].
func New(c Config, identityTokens func() (map[string]string, error)) *Component {
	return &Component{c, identityTokens}
}

// Name is "containerd".
func (*Component) Name() string { return "containerd" }

// Prepare writes the configuration file.
func (c *Component) Prepare(context.Context) error {
	tokens, err := c.tokens()
	if err != nil {
		return err
	}
	text, err := c.config.TOML(tokens)
	if err != nil {
		return err
	}
	for _, dir := range []string{filepath.Dir(c.config.ConfigFile), filepath.Dir(c.config.DropIns), c.config.CNIConfig, c.config.RegistryConfig} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make containerd directory: %w", err)
		}
	}
	files, err := c.dropIns()
	if err != nil {
		return err
	}
	if err := c.config.checkDefaultRuntime(files); err != nil {
		return err
	}
	if _, err := atomicfile.WriteIfChanged(c.config.ConfigFile, text, 0o600); err != nil {
		return fmt.Errorf("write containerd configuration: %w", err)
	}
	return nil
}

// dropIns reads the user's own files.
func (c *Component) dropIns() (map[string][]byte, error) {
	names, err := filepath.Glob(c.config.DropIns)
	if err != nil {
		return nil, fmt.Errorf("list containerd configuration %s: %w", c.config.DropIns, err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read containerd configuration: %w", err)
		}
		files[name] = text
	}
	return files, nil
}

// Run follows cmd/containerd/command/main.go:125 (Action) without its signal handler. It is ready when all plugins
// that announced readiness are ready and the socket answers.
func (c *Component) Run(ctx context.Context, ready func()) error {
	config := &srvconfig.Config{}
	none := func(*plugin.Registration) bool { return false }
	plugins := func() iter.Seq[plugin.Registration] { return slices.Values(registry.Graph(none)) }
	if err := srvconfig.LoadConfigWithPlugins(ctx, c.config.ConfigFile, plugins, config); err != nil {
		return fmt.Errorf("load containerd configuration %s: %w", c.config.ConfigFile, err)
	}
	if err := server.CreateTopLevelDirectories(config); err != nil {
		return fmt.Errorf("make containerd directories: %w", err)
	}
	if err := cleanMounts(ctx, config.Root); err != nil {
		return err
	}
	// The plugins keep the context they are given for as long as they live, which is past the stop of this
	// component: Stop closes them in order.
	life := context.WithoutCancel(ctx)
	daemon, err := server.New(life, config)
	if err != nil {
		return fmt.Errorf("create containerd: %w", err)
	}
	defer daemon.Stop()
	if err := daemon.Start(life); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	booted := make(chan struct{})
	go func() { // ends with the process at the latest: Wait returns when every plugin is ready
		daemon.Wait()
		close(booted)
	}()
	select {
	case <-booted:
		ready()
		<-ctx.Done()
	case <-ctx.Done():
	}
	serving(life, c.config.Address)
	return nil
}

// serving waits until containerd serves its socket, as it does from some moment after Start on: a server that is stopped
// before ends the process (plugins/server/internal/serve.go:36).
func serving(ctx context.Context, socket string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return // the stop goes on all the same
	}
	defer func() { _ = conn.Close() }() // nothing was asked for
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// cleanMounts removes what a killed process left mounted below root/tmpmounts. What cannot be removed is in nobody's way:
// as upstream does (main.go:195), it says so and goes on.
func cleanMounts(ctx context.Context, root string) error {
	if err := mount.SetTempMountLocation(filepath.Join(root, "tmpmounts")); err != nil {
		return fmt.Errorf("choose containerd's place for temporary mounts: %w", err)
	}
	warnings, err := mount.CleanupTempMounts(0)
	if err := errors.Join(append(warnings, err)...); err != nil {
		log.G(ctx).WithError(err).Warn("cannot unmount all that an earlier containerd left")
	}
	return nil
}
