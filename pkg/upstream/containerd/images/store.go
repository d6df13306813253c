package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	imagearchive "github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	imgspec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/knarr-io/knarr/pkg/retry"
)

// namespace is containerd's for Kubernetes (constants.K8sContainerdNamespace of its internal/cri).
const namespace = "k8s.io"

const abortTimeout = 10 * time.Second

// pins are the labels by which containerd's CRI knows an image as its own and as one that the kubelet must not collect
// (internal/cri/labels/labels.go).
func pins() map[string]string {
	return map[string]string{"io.cri-containerd.image": "managed", "io.cri-containerd.pinned": "pinned"}
}

// node is the store of this node's containerd.
type node struct {
	client      *containerd.Client
	cri         cri.ImageServiceClient
	snapshotter string
	host        platforms.MatchComparer
}

// connect returns the store and what gives the connection up.
func connect(address, snapshotter string) (store, func() error, error) {
	n, err := dial(address, snapshotter)
	if err != nil {
		return nil, nil, err
	}
	return n, n.client.Close, nil
}

func dial(address, snapshotter string) (*node, error) {
	client, err := containerd.New(address, containerd.WithDefaultNamespace(namespace))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	conn, ok := client.Conn().(grpc.ClientConnInterface)
	if !ok {
		return nil, errors.Join(errors.New("containerd's client has no gRPC connection"), client.Close())
	}
	return &node{client: client, cri: cri.NewImageServiceClient(conn), snapshotter: snapshotter, host: platforms.Default()}, nil
}

func (n *node) Has(ctx context.Context, want digests) (bool, error) {
	for name, digest := range want {
		img, err := n.client.ImageService().Get(ctx, name)
		if errdefs.IsNotFound(err) || err == nil && img.Target.Digest != digest {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("look up image %s: %w", name, err)
		}
		unpacked, err := n.image(img).IsUnpacked(ctx, n.snapshotter)
		if errdefs.IsNotFound(err) || err == nil && !unpacked {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("look up the snapshot of image %s: %w", name, err)
		}
		for key, value := range pins() {
			if img.Labels[key] == value {
				continue
			}
			if err := n.put(ctx, name, img.Target); err != nil {
				return false, err
			}
			break
		}
	}
	return true, nil
}

func (n *node) image(img images.Image) containerd.Image {
	return containerd.NewImageWithPlatform(n.client, img, n.host)
}

// Import follows Client.Import (client/import.go:133), but names an image only when it is complete and unpacked: so a
// damaged archive neither leaves an image that cannot run nor takes the place of a good one.
func (n *node) Import(ctx context.Context, file io.Reader) (_ digests, err error) {
	ctx, release, err := n.client.WithLease(ctx)
	if err != nil {
		return nil, fmt.Errorf("lease content: %w", err)
	}
	defer func() { err = errors.Join(err, release(context.WithoutCancel(ctx))) }()
	index, err := n.ingest(ctx, file)
	if err != nil {
		return nil, err
	}
	found, err := named(index, n.host)
	if err != nil {
		return nil, err
	}
	for name, target := range found {
		if err := n.hold(ctx, target); err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
		if err := n.image(images.Image{Name: name, Target: target}).Unpack(ctx, n.snapshotter); err != nil {
			return nil, fmt.Errorf("unpack image %s: %w", name, err)
		}
	}
	result := make(digests)
	for name, target := range found {
		if err := n.publish(ctx, name, target); err != nil {
			return nil, err
		}
		result[name] = target.Digest
	}
	return result, nil
}

// ingest writes the blobs of an archive into the content store.
func (n *node) ingest(ctx context.Context, file io.Reader) (index imgspec.Index, err error) {
	cs := n.client.ContentStore()
	if err := abort(ctx, cs); err != nil {
		return index, err
	}
	plain, err := compression.DecompressStream(file)
	if err != nil {
		return index, fmt.Errorf("decompress: %w", err)
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	desc, err := imagearchive.ImportIndex(ctx, cs, plain)
	if err != nil {
		return index, fmt.Errorf("read the archive: %w", err)
	}
	if _, err := io.Copy(io.Discard, plain); err != nil { // the checksum of the compression stands at the end
		return index, fmt.Errorf("read the end of the archive: %w", err)
	}
	text, err := content.ReadBlob(ctx, cs, desc)
	if err != nil {
		return index, fmt.Errorf("read the index: %w", err)
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return index, fmt.Errorf("read the index: %w", err)
	}
	return index, nil
}

// abort drops the half-written blobs that a killed or failed import left: the next would go on from there, even with
// another archive, since blobs are known by their file names (core/images/archive/importer.go:117). containerd may still
// be closing one, and then cannot drop it yet.
func abort(ctx context.Context, cs content.Store) error {
	ctx, cancel := context.WithTimeout(ctx, abortTimeout)
	defer cancel()
	backoff := retry.Backoff{First: 5 * time.Millisecond, Max: 200 * time.Millisecond}
	return retry.Until(ctx, "containerd to drop what an earlier import left", backoff, func(ctx context.Context) (bool, error) {
		statuses, err := cs.ListStatuses(ctx)
		for _, s := range statuses {
			if !strings.HasPrefix(s.Ref, "tar-") {
				continue
			}
			if e := cs.Abort(ctx, s.Ref); !errdefs.IsNotFound(e) {
				err = errors.Join(err, e)
			}
		}
		return err == nil, err
	})
}

// hold labels the content of an image, as far as it is for this host, so that it lives as long as the image does.
func (n *node) hold(ctx context.Context, target imgspec.Descriptor) error {
	cs := n.client.ContentStore()
	handler := images.FilterPlatforms(images.ChildrenHandler(cs), n.host)
	return images.WalkNotEmpty(ctx, images.SetChildrenLabels(cs, handler), target)
}

// publish gives an image the names it would have if it had been pulled (internal/cri/server/images/image_pull.go:198):
// the tag, the digest, and its ID, for which CRI relies on whoever sets the label "managed".
func (n *node) publish(ctx context.Context, name string, target imgspec.Descriptor) error {
	config, err := n.image(images.Image{Name: name, Target: target}).Config(ctx)
	if err != nil {
		return fmt.Errorf("find the ID of image %s: %w", name, err)
	}
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return fmt.Errorf("image name %q: %w", name, err)
	}
	byDigest, err := reference.WithDigest(reference.TrimNamed(ref), target.Digest)
	if err != nil {
		return fmt.Errorf("name image %s by its digest: %w", name, err)
	}
	for _, name := range []string{config.Digest.String(), byDigest.String(), ref.String()} {
		if err := n.put(ctx, name, target); err != nil {
			return err
		}
	}
	return nil
}

// put makes name a pinned image. Other labels of an image that is there stay.
func (n *node) put(ctx context.Context, name string, target imgspec.Descriptor) error {
	img := images.Image{Name: name, Target: target, Labels: pins()}
	fields := []string{"target"}
	for key := range img.Labels {
		fields = append(fields, "labels."+key)
	}
	_, err := n.client.ImageService().Update(ctx, img, fields...)
	if errdefs.IsNotFound(err) {
		_, err = n.client.ImageService().Create(ctx, img)
	}
	if err != nil {
		return fmt.Errorf("store image %s: %w", name, err)
	}
	return nil
}

// Pull goes through CRI, which knows the mirrors and the credentials.
func (n *node) Pull(ctx context.Context, name string) error {
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return fmt.Errorf("image name %q: %w", name, err)
	}
	img, err := n.client.ImageService().Get(ctx, ref.String())
	if err == nil {
		if whole, err := n.Has(ctx, digests{img.Name: img.Target.Digest}); err != nil || whole {
			return err
		}
	}
	if _, err := n.cri.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref.String()}}); err != nil {
		return err
	}
	if img, err = n.client.ImageService().Get(ctx, ref.String()); err != nil {
		return fmt.Errorf("look up image %s: %w", name, err)
	}
	return n.publish(ctx, img.Name, img.Target)
}
