package pack

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imgspec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/knarr-io/knarr/pkg/bundle/manifest"
)

// stage makes a directory to pack. Neither its order nor its times may matter.
func stage(t *testing.T, order []string, when time.Time) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range order {
		full := filepath.Join(dir, name)
		mode := os.FileMode(0o600)
		if strings.HasPrefix(name, "bin/") {
			mode = 0o700
		}
		err := errors.Join(
			os.MkdirAll(filepath.Dir(full), 0o755),
			os.WriteFile(full, []byte(name), mode),
			os.Chtimes(full, when, when))
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("runc", filepath.Join(dir, "bin/link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestBundle(t *testing.T) {
	var one, two bytes.Buffer
	m, err := Bundle(stage(t, []string{"bin/runc", "share/x", "a"}, time.Unix(1e9, 0)), "arm", &one)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Bundle(stage(t, []string{"share/x", "a", "bin/runc"}, time.Unix(2e9, 0)), "arm", &two)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) || !reflect.DeepEqual(m, again) {
		t.Error("the same files, made in another order at another time, give another archive")
	}
	want := manifest.Manifest{Arch: "arm", Files: []manifest.File{
		{Path: "a", Mode: 0o644, Size: 1, SHA256: digest.FromString("a").Encoded()},
		{Path: "bin/link", Link: "runc"},
		{Path: "bin/runc", Mode: 0o755, Size: 8, SHA256: digest.FromString("bin/runc").Encoded()},
		{Path: "share/x", Mode: 0o644, Size: 7, SHA256: digest.FromString("share/x").Encoded()},
	}}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("manifest is %+v, want %+v", m, want)
	}
	tr := tar.NewReader(&one)
	for _, f := range want.Files {
		h, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Name != f.Path || h.Linkname != f.Link || h.Size != f.Size {
			t.Errorf("archive has %s -> %q of %d bytes, the manifest %+v", h.Name, h.Linkname, h.Size, f)
		}
	}
	if _, err := tr.Next(); err != io.EOF {
		t.Errorf("archive goes on after the manifest: %v", err)
	}
}

func TestBundleRefusesSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Bundle(dir, "amd64", io.Discard); err == nil || !strings.Contains(err.Error(), "fifo") {
		t.Errorf("Bundle() = %v, want an error that names the fifo", err)
	}
}

func TestImage(t *testing.T) {
	for arch, variant := range map[string]string{"amd64": "", "arm64": "", "arm": "v7"} {
		t.Run(arch, func(t *testing.T) {
			var one, two bytes.Buffer
			program := []byte("\x7fELF program")
			if err := Image("docker.io/knarr/pause:1", arch, "/pause", rootOf(t, program), &one); err != nil {
				t.Fatal(err)
			}
			if err := Image("docker.io/knarr/pause:1", arch, "/pause", rootOf(t, program), &two); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(one.Bytes(), two.Bytes()) {
				t.Error("the same program gives another image")
			}
			files := untar(t, one.Bytes())
			index := decode[imgspec.Index](t, files, "index.json")
			if len(index.Manifests) != 1 {
				t.Fatalf("index has %d manifests, want 1", len(index.Manifests))
			}
			desc := index.Manifests[0]
			if desc.Annotations["io.containerd.image.name"] != "docker.io/knarr/pause:1" || desc.Annotations[imgspec.AnnotationRefName] != "1" {
				t.Errorf("image is named %v", desc.Annotations)
			}
			if desc.Platform.Architecture != arch || desc.Platform.Variant != variant {
				t.Errorf("platform is %+v, want %s %s", desc.Platform, arch, variant)
			}
			m := decode[imgspec.Manifest](t, files, blob(t, files, desc))
			config := decode[imgspec.Image](t, files, blob(t, files, m.Config))
			if !reflect.DeepEqual(config.Config.Entrypoint, []string{"/pause"}) || config.Config.User != "65535:65535" {
				t.Errorf("configuration is %+v", config.Config)
			}
			layer := files[blob(t, files, m.Layers[0])]
			if digest.FromBytes(layer) != config.RootFS.DiffIDs[0] {
				t.Error("the layer is not the one in the configuration")
			}
			if content := untar(t, layer); len(content) != 2 || !bytes.Equal(content["pause"], program) {
				t.Errorf("layer holds %d files, want the program and a directory", len(content))
			}
			if got, want := modes(t, layer), "pause 755, tmp/ 1777"; got != want {
				t.Errorf("layer has %s, want %s", got, want)
			}
		})
	}
}

// rootOf makes the files of an image: a program and a directory for everyone.
func rootOf(t *testing.T, program []byte) string {
	t.Helper()
	root := t.TempDir()
	tmp := filepath.Join(root, "tmp")
	err := errors.Join(
		os.WriteFile(filepath.Join(root, "pause"), program, 0o700),
		os.Mkdir(tmp, 0o700),
		os.Chmod(tmp, 0o777|os.ModeSticky))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func modes(t *testing.T, layer []byte) string {
	t.Helper()
	var list []string
	for tr := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return strings.Join(list, ", ")
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%s %o", h.Name, h.Mode))
	}
}

func TestImageWithoutEntrypoint(t *testing.T) {
	var out bytes.Buffer
	if err := Image("docker.io/knarr/base:1", "amd64", "", t.TempDir(), &out); err != nil {
		t.Fatal(err)
	}
	files := untar(t, out.Bytes())
	m := decode[imgspec.Manifest](t, files, blob(t, files, decode[imgspec.Index](t, files, "index.json").Manifests[0]))
	if config := decode[imgspec.Image](t, files, blob(t, files, m.Config)); config.Config.Entrypoint != nil {
		t.Errorf("entrypoint is %q, want none", config.Config.Entrypoint)
	}
}

func TestImageRefusesLinks(t *testing.T) {
	root := t.TempDir()
	if err := os.Symlink("a", filepath.Join(root, "b")); err != nil {
		t.Fatal(err)
	}
	if err := Image("docker.io/knarr/base:1", "amd64", "", root, io.Discard); err == nil || !strings.Contains(err.Error(), "/b is neither") {
		t.Errorf("Image() = %v, want an error that names the link", err)
	}
}

// blob returns the path of the blob that desc describes, having checked it.
func blob(t *testing.T, files map[string][]byte, desc imgspec.Descriptor) string {
	t.Helper()
	name := "blobs/sha256/" + desc.Digest.Encoded()
	data, ok := files[name]
	if !ok || digest.FromBytes(data) != desc.Digest || int64(len(data)) != desc.Size {
		t.Fatalf("blob %s (there: %v) is not as described: %+v", name, ok, desc)
	}
	return name
}

func decode[T any](t *testing.T, files map[string][]byte, name string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(files[name], &v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

func untar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(time.Unix(0, 0)) || h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s has time %v, owner %d:%d", h.Name, h.ModTime, h.Uid, h.Gid)
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}
