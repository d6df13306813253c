package images

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	imgspec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxIndex bounds what is read of an index.json, in bytes.
const maxIndex = 20 << 20

// nameOf is the full name of an image in an index; "" if the index does not name it. Tools differ in which annotation
// they use, and some put no more than a tag into the second, which names nothing.
func nameOf(d imgspec.Descriptor) (string, error) {
	name := d.Annotations[images.AnnotationImageName]
	if ref := d.Annotations[imgspec.AnnotationRefName]; name == "" && strings.ContainsAny(ref, ":/") {
		name = ref
	}
	if name == "" {
		return "", nil
	}
	full, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", name, err)
	}
	return full.String(), nil
}

// named are the images of an index that are for this host, by full name.
func named(index imgspec.Index, host platforms.Matcher) (map[string]imgspec.Descriptor, error) {
	found := make(map[string]imgspec.Descriptor)
	foreign := ""
	for _, d := range index.Manifests {
		name, err := nameOf(d)
		switch {
		case err != nil:
			return nil, err
		case name == "":
		case d.Platform != nil && !host.Match(*d.Platform):
			foreign = platforms.Format(*d.Platform)
		default:
			found[name] = d
		}
	}
	switch {
	case len(found) > 0:
		return found, nil
	case foreign != "":
		return nil, fmt.Errorf("the images in it are for %s, this host is %s", foreign, platforms.DefaultString())
	}
	return nil, errors.New("no image in it has a name; save it by its name, not by its ID")
}

// peek reads the index of an uncompressed OCI layout without reading the blobs. It fails for other archives.
func peek(archive io.ReadSeeker) (imgspec.Index, error) {
	var index imgspec.Index
	for r := tar.NewReader(archive); ; { // skips by seeking
		h, err := r.Next()
		if err != nil {
			return index, fmt.Errorf("look for %s: %w", imgspec.ImageIndexFile, err)
		}
		if path.Clean(h.Name) != imgspec.ImageIndexFile {
			continue
		}
		if err := json.NewDecoder(io.LimitReader(r, maxIndex)).Decode(&index); err != nil {
			return index, fmt.Errorf("read %s: %w", imgspec.ImageIndexFile, err)
		}
		return index, nil
	}
}

// findDamage reads an archive again from its start and says what is wrong with it: that it ends too early, that its
// compression does not add up, or which blob has another checksum than its name says. containerd notices all of this
// too, but says only that some content is missing.
func findDamage(archive io.ReadSeeker) error {
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the archive again: %w", err)
	}
	plain, err := compression.DecompressStream(archive)
	if err != nil {
		return fmt.Errorf("damaged: %w", err)
	}
	damage := readBlobs(plain)
	if damage == nil {
		_, damage = io.Copy(io.Discard, plain) // up to the checksum at the end
	}
	if err := errors.Join(damage, plain.Close()); err != nil {
		return fmt.Errorf("damaged: %w", err)
	}
	return nil
}

func readBlobs(plain io.Reader) error {
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		dir, encoded := path.Split(path.Clean(h.Name))
		want := digest.NewDigestFromEncoded(digest.Algorithm(path.Base(dir)), encoded)
		if path.Dir(path.Clean(dir)) != imgspec.ImageBlobsDir || want.Validate() != nil {
			continue
		}
		got, err := want.Algorithm().FromReader(r)
		if err != nil {
			return fmt.Errorf("blob %s: %w", want, err)
		}
		if got != want {
			return fmt.Errorf("blob %s has the checksum %s", want, got)
		}
	}
}
