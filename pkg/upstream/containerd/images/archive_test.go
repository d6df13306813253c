package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	imgspec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/knarr-io/knarr/pkg/bundle/pack"
)

const (
	imageName = "io.containerd.image.name"
	refName   = imgspec.AnnotationRefName
)

func TestNames(t *testing.T) {
	host := platforms.DefaultSpec()
	foreign := imgspec.Platform{OS: "linux", Architecture: "s390x"}
	if runtime.GOARCH == "s390x" {
		foreign.Architecture = "amd64"
	}
	d := func(p *imgspec.Platform, annotations ...string) imgspec.Descriptor {
		a := make(map[string]string)
		for i := 0; i < len(annotations); i += 2 {
			a[annotations[i]] = annotations[i+1]
		}
		return imgspec.Descriptor{Digest: digest.FromString("x"), Platform: p, Annotations: a}
	}
	tests := []struct {
		name  string
		index []imgspec.Descriptor
		want  string
		err   string
	}{
		{"by containerd", []imgspec.Descriptor{d(&host, imageName, "ghcr.io/a/b:1", refName, "1")}, "ghcr.io/a/b:1", ""},
		{"short names", []imgspec.Descriptor{d(nil, imageName, "busybox"), d(nil, imageName, "a/b:2")}, "docker.io/a/b:2 docker.io/library/busybox:latest", ""},
		{"by others", []imgspec.Descriptor{d(&host, refName, "quay.io/a:1")}, "quay.io/a:1", ""},
		{"only a tag", []imgspec.Descriptor{d(&host, refName, "latest")}, "", "no image in it has a name"},
		{"nameless beside a named one", []imgspec.Descriptor{d(&host), d(&host, imageName, "a:1")}, "docker.io/library/a:1", ""},
		{"for others", []imgspec.Descriptor{d(&foreign, imageName, "a:1")}, "", "the images in it are for linux/" + foreign.Architecture},
		{"for us and for others", []imgspec.Descriptor{d(&foreign, imageName, "a:1"), d(&host, imageName, "b:1")}, "docker.io/library/b:1", ""},
		{"no name", []imgspec.Descriptor{d(&host, imageName, "A B")}, "", `image name "A B"`},
		{"empty", nil, "", "no image in it has a name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			found, err := named(imgspec.Index{Manifests: tt.index}, platforms.Default())
			if got := strings.Join(slices.Sorted(maps.Keys(found)), " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

// layout is a good archive with one image.
func layout(t *testing.T, name string) []byte {
	t.Helper()
	return layoutOf(t, name, "the program of "+name)
}

func layoutOf(t *testing.T, name, program string) []byte {
	t.Helper()
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "program"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := pack.Image(name, runtime.GOARCH, "/program", root, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstandard(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

// dockerArchive turns a layout with one image into what `docker save` used to write.
func dockerArchive(t *testing.T, name string, data []byte) []byte {
	t.Helper()
	blobs := make(map[string][]byte)
	var index imgspec.Index
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		blobs[h.Name] = text
	}
	blob := func(d digest.Digest) []byte { return blobs["blobs/sha256/"+d.Encoded()] }
	var manifest imgspec.Manifest
	if err := json.Unmarshal(blobs["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(blob(index.Manifests[0].Digest), &manifest); err != nil {
		t.Fatal(err)
	}
	list, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"1/layer.tar"}}})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct {
		name string
		data []byte
	}{{"1/layer.tar", blob(manifest.Layers[0].Digest)}, {"config.json", blob(manifest.Config.Digest)}, {"manifest.json", list}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.data)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// flipped is data with another byte in the middle of what is marked.
func flipped(t *testing.T, data []byte, mark string) []byte {
	t.Helper()
	at := bytes.Index(data, []byte(mark))
	if at < 0 {
		t.Fatalf("no %q in the archive", mark)
	}
	data = bytes.Clone(data)
	data[at] ^= 1
	return data
}

func TestFindDamage(t *testing.T) {
	good := layout(t, "docker.io/library/a:1")
	zipped := gzipped(t, good)
	badSum := bytes.Clone(zipped)
	badSum[len(badSum)-5] ^= 1
	badZstd := zstandard(t, good)
	badZstd[len(badZstd)-1] ^= 1
	tests := []struct {
		name string
		data []byte
		want string
	}{
		{"good", good, ""},
		{"good gzip", zipped, ""},
		{"good zstd", zstandard(t, good), ""},
		{"good docker archive", dockerArchive(t, "a:1", good), ""},
		{"another byte", flipped(t, good, "the program"), "has the checksum sha256:"},
		{"cut", good[:len(good)/2], "EOF"},
		{"cut gzip", zipped[:len(zipped)-20], "EOF"},
		{"gzip with a bad sum", badSum, "checksum"},
		{"zstd with a bad sum", badZstd, "CRC"},
		{"no archive", bytes.Repeat([]byte("no tar at all "), 100), "invalid tar header"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := findDamage(bytes.NewReader(tt.data))
			if (err == nil) != (tt.want == "") || err != nil && !(strings.Contains(err.Error(), tt.want) && strings.HasPrefix(err.Error(), "damaged: ")) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestPeek(t *testing.T) {
	good := layout(t, "docker.io/library/a:1")
	index, err := peek(bytes.NewReader(good))
	if err != nil || len(index.Manifests) != 1 {
		t.Errorf("index %v, error %v", index, err)
	}
	for name, data := range map[string][]byte{"docker archive": dockerArchive(t, "a:1", good), "compressed": gzipped(t, good), "empty": nil} {
		if _, err := peek(bytes.NewReader(data)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
