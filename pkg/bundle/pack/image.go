package pack

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageName is the annotation by which containerd's import names an image
// (containerd core/images/annotations.go).
const imageName = "io.containerd.image.name"

// Image writes to w an OCI image layout, as a tar archive, of the image name
// (a full one, with registry and tag) for arch: one uncompressed layer that
// holds the static executable program as /entrypoint, run as an unprivileged
// user.
func Image(name, arch, entrypoint string, program []byte, w io.Writer) error {
	platform := imgspec.Platform{OS: "linux", Architecture: arch}
	if arch == "arm" {
		platform.Variant = "v7"
	}
	layer, err := layer(entrypoint, program)
	if err != nil {
		return fmt.Errorf("make layer of image %s: %w", name, err)
	}
	blobs := &blobs{}
	layerDesc := blobs.add(imgspec.MediaTypeImageLayer, layer)
	config, err := json.Marshal(imgspec.Image{
		Platform: platform,
		Config:   imgspec.ImageConfig{User: "65535:65535", Entrypoint: []string{"/" + entrypoint}},
		RootFS:   imgspec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDesc.Digest}},
	})
	if err != nil {
		return fmt.Errorf("make configuration of image %s: %w", name, err)
	}
	image, err := json.Marshal(imgspec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: imgspec.MediaTypeImageManifest,
		Config:    blobs.add(imgspec.MediaTypeImageConfig, config),
		Layers:    []imgspec.Descriptor{layerDesc},
	})
	if err != nil {
		return fmt.Errorf("make manifest of image %s: %w", name, err)
	}
	desc := blobs.add(imgspec.MediaTypeImageManifest, image)
	desc.Platform = &platform
	desc.Annotations = map[string]string{
		imageName:                 name,
		imgspec.AnnotationRefName: name[strings.LastIndexByte(name, ':')+1:],
	}
	index, err := json.Marshal(imgspec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: imgspec.MediaTypeImageIndex,
		Manifests: []imgspec.Descriptor{desc},
	})
	if err != nil {
		return fmt.Errorf("make index of image %s: %w", name, err)
	}
	return blobs.write(w, index)
}

// layer returns the tar archive of one executable.
func layer(name string, program []byte) ([]byte, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	if err := writeEntry(tw, name, 0o755, program); err != nil {
		return nil, err
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// blobs are the contents of an image layout, in the order of their adding.
type blobs struct {
	data [][]byte
}

func (b *blobs) add(mediaType string, data []byte) imgspec.Descriptor {
	b.data = append(b.data, data)
	return imgspec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func (b *blobs) write(w io.Writer, index []byte) error {
	tw := tar.NewWriter(w)
	marker, err := json.Marshal(imgspec.ImageLayout{Version: imgspec.ImageLayoutVersion})
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	if err := writeEntry(tw, imgspec.ImageLayoutFile, 0o644, marker); err != nil {
		return err
	}
	if err := writeEntry(tw, imgspec.ImageIndexFile, 0o644, index); err != nil {
		return err
	}
	for _, data := range b.data {
		d := digest.FromBytes(data)
		name := path.Join(imgspec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
		if err := writeEntry(tw, name, 0o644, data); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

func writeEntry(tw *tar.Writer, name string, mode int64, data []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), Format: tar.FormatUSTAR}
	if err := tw.WriteHeader(h); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if _, err := tw.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
