package pack

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
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
// holds what is below the directory root, run as an unprivileged user. The
// entrypoint is a path in the image; with none a pod has to say its command.
func Image(name, arch, entrypoint, root string, w io.Writer) error {
	platform := imgspec.Platform{OS: "linux", Architecture: arch}
	if arch == "arm" {
		platform.Variant = "v7"
	}
	run := imgspec.ImageConfig{User: "65535:65535"}
	if entrypoint != "" {
		run.Entrypoint = []string{entrypoint}
	}
	layer, err := layer(root)
	if err != nil {
		return fmt.Errorf("make layer of image %s: %w", name, err)
	}
	blobs := &blobs{}
	layerDesc := blobs.add(imgspec.MediaTypeImageLayer, layer)
	config, err := json.Marshal(imgspec.Image{
		Platform: platform,
		Config:   run,
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

// layer returns the tar archive of what is below root. Of the modes, only
// whether a file can be executed and whether a directory is for everyone's
// files (sticky) are taken over.
func layer(root string) ([]byte, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	// WalkDir goes in lexical order.
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			mode := int64(0o755)
			if info.Mode()&fs.ModeSticky != 0 {
				mode = 0o1777
			}
			return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: rel + "/", Mode: mode, Format: tar.FormatUSTAR})
		case d.Type().IsRegular():
			mode := int64(0o644)
			if info.Mode()&0o111 != 0 {
				mode = 0o755
			}
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			return writeEntry(tw, rel, mode, data)
		}
		return fmt.Errorf("%s is neither a regular file nor a directory", name)
	})
	if err != nil {
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
