package crictl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// onEach does something to each of the named things, says so, and goes on after a
// failure: the others may well be done.
func (c *Client) onEach(names []string, did string, do func(string) error) error {
	var errs []error
	for _, name := range names {
		if err := do(name); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, plain(err)))
			continue
		}
		if err := c.lines([]string{did + name}); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Stop stops containers: SIGTERM, then SIGKILL after so many seconds.
func (c *Client) Stop(ctx context.Context, ids []string, seconds int64) error {
	return c.onEach(ids, "", func(id string) error { return c.runtime.StopContainer(quiet(ctx), id, seconds) })
}

// StopPods stops pods with all their containers.
func (c *Client) StopPods(ctx context.Context, ids []string) error {
	return c.onEach(ids, "Stopped sandbox ", func(id string) error { return c.runtime.StopPodSandbox(quiet(ctx), id) })
}

// RemoveOptions choose what is removed.
type RemoveOptions struct {
	// All removes all there are, in place of the named ones.
	All bool
	// Force stops what runs; without it what runs is refused.
	Force bool
}

// Remove removes containers.
func (c *Client) Remove(ctx context.Context, ids []string, o RemoveOptions) error {
	if o.All {
		all, err := c.containers(ctx, ListOptions{All: true})
		if err != nil {
			return err
		}
		ids = nil
		for _, container := range all {
			ids = append(ids, container.GetId())
		}
	}
	return c.onEach(ids, "", func(id string) error {
		s, err := c.runtime.ContainerStatus(quiet(ctx), id, false)
		if err != nil {
			return err
		}
		if s.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING {
			if !o.Force {
				return errors.New("it is running; stop it first, or give --force")
			}
			if err := c.runtime.StopContainer(quiet(ctx), id, 0); err != nil {
				return err
			}
		}
		return c.runtime.RemoveContainer(quiet(ctx), id)
	})
}

// RemovePods removes pods with all their containers.
func (c *Client) RemovePods(ctx context.Context, ids []string, o RemoveOptions) error {
	if o.All {
		all, err := c.pods(ctx, ListOptions{})
		if err != nil {
			return err
		}
		ids = nil
		for _, pod := range all {
			ids = append(ids, pod.GetId())
		}
	}
	return c.onEach(ids, "Removed sandbox ", func(id string) error {
		s, err := c.runtime.PodSandboxStatus(quiet(ctx), id, false)
		if err != nil {
			return err
		}
		if s.GetStatus().GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
			if !o.Force {
				return errors.New("it is ready; stop it first with stopp, or give --force")
			}
			if err := c.runtime.StopPodSandbox(quiet(ctx), id); err != nil {
				return err
			}
		}
		return c.runtime.RemovePodSandbox(quiet(ctx), id)
	})
}

// RemoveImages removes images by name or id. With all it removes every image that
// is not pinned, with unused only those of them that no container uses.
func (c *Client) RemoveImages(ctx context.Context, names []string, all, unused bool) error {
	if all || unused {
		var err error
		if names, err = c.removableImages(ctx, unused); err != nil {
			return err
		}
	}
	return c.onEach(names, "Deleted: ", func(name string) error {
		s, err := c.images.ImageStatus(quiet(ctx), &runtimeapi.ImageSpec{Image: name}, false)
		if err != nil {
			return err
		}
		if s.GetImage() == nil {
			return errors.New("it is not on this node")
		}
		return c.images.RemoveImage(quiet(ctx), &runtimeapi.ImageSpec{Image: s.GetImage().GetId()})
	})
}

func (c *Client) removableImages(ctx context.Context, unused bool) ([]string, error) {
	used := map[string]bool{}
	if unused {
		containers, err := c.containers(ctx, ListOptions{All: true})
		if err != nil {
			return nil, err
		}
		for _, container := range containers {
			used[container.GetImageRef()], used[container.GetImageId()] = true, true
		}
	}
	images, err := c.images.ListImages(quiet(ctx), nil)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", plain(err))
	}
	var ids []string
	for _, image := range images {
		if !image.GetPinned() && !used[image.GetId()] {
			ids = append(ids, image.GetId())
		}
	}
	return ids, nil
}

// Pull pulls an image. credentials are "user:password", or ""; token is a value of
// auth as in a docker configuration file, or "".
func (c *Client) Pull(ctx context.Context, name, credentials, token string) error {
	var auth *runtimeapi.AuthConfig
	switch {
	case credentials != "" && token != "":
		return errors.New("give either --creds or --auth")
	case token != "":
		auth = &runtimeapi.AuthConfig{Auth: token}
	case credentials != "":
		user, password, ok := strings.Cut(credentials, ":")
		if !ok || user == "" {
			return errors.New("--creds: want USER:PASSWORD")
		}
		auth = &runtimeapi.AuthConfig{Username: user, Password: password}
	}
	ref, err := c.images.PullImage(quiet(ctx), &runtimeapi.ImageSpec{Image: name}, auth, nil)
	if err != nil {
		return fmt.Errorf("pull %s: %w", name, plain(err))
	}
	return c.lines([]string{"Image is up to date for " + ref})
}
