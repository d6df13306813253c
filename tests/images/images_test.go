package images

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// entries reads an archive into memory.
func entries(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		if got[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBuildWritesBothArchiveFormats(t *testing.T) {
	paths, err := Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	docker, oci := entries(t, paths[0]), entries(t, paths[1])
	var saved []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(docker["manifest.json"], &saved); err != nil {
		t.Fatal(err)
	}
	if saved[0].RepoTags[0] != Busybox || docker[saved[0].Config] == nil || docker[saved[0].Layers[0]] == nil {
		t.Errorf("docker archive's manifest %+v names what is not there", saved)
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(oci["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	if index.Manifests[0].Annotations["io.containerd.image.name"] != Server {
		t.Errorf("OCI index %s does not name %s", oci["index.json"], Server)
	}
	for name, blob := range oci {
		if sum, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && digest(blob) != sum {
			t.Errorf("blob %s has digest %s", name, digest(blob))
		}
	}
	if oci["blobs/"+strings.Replace(index.Manifests[0].Digest, ":", "/", 1)] == nil {
		t.Error("the OCI index points to no manifest")
	}
}
