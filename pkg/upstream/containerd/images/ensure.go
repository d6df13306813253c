package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/knarr-io/knarr/pkg/retry"
)

// Ensure returns when containerd holds the images of all archives, unpacked and pinned, and its CRI knows them: when
// the first pod may start. It is for the archives that knarr brings along, which are uncompressed OCI layouts: of these
// only the index is read when the images are there. Other archives are imported each time.
//
// The socket at address may appear later; ctx bounds the wait.
func Ensure(ctx context.Context, address, snapshotter string, archives ...string) (err error) {
	n, err := dial(address, snapshotter)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.client.Close()) }()
	for _, path := range archives {
		images, err := ensure(ctx, n, path)
		if err != nil {
			return fmt.Errorf("import %s: %w", path, err)
		}
		for name := range images {
			if err := n.await(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// ensure imports one archive unless its images are there.
func ensure(ctx context.Context, n *node, path string) (digests, error) {
	if images, err := announced(n, path); err == nil {
		if there, err := n.Has(ctx, images); err != nil || there {
			return images, err
		}
	}
	return importFile(ctx, n, path)
}

// announced are the images that an archive says it holds. An error means that it has to be imported to know.
func announced(n *node, path string) (_ digests, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	index, err := peek(f)
	if err != nil {
		return nil, err
	}
	found, err := named(index, n.host)
	if err != nil {
		return nil, err
	}
	images := make(digests)
	for name, target := range found {
		images[name] = target.Digest
	}
	return images, nil
}

// await waits until CRI has noticed an image: it follows containerd's events and offers no events itself.
func (n *node) await(ctx context.Context, name string) error {
	backoff := retry.Backoff{First: 2 * time.Millisecond, Max: 100 * time.Millisecond}
	return retry.Until(ctx, "CRI to know image "+name, backoff, func(ctx context.Context) (bool, error) {
		status, err := n.cri.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
		return err == nil && status.GetImage() != nil, err
	})
}
