package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// file is one entry of a layer or archive; a name that ends in a slash is a
// directory, one with a link is symbolic.
type file struct {
	name, link string
	data       []byte
	mode       int64
}

// config is an image configuration as far as the tests' images have one
// (OCI image-spec, config.md).
type config struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Config       struct {
		Entrypoint []string `json:"Entrypoint,omitempty"`
		Cmd        []string `json:"Cmd,omitempty"`
		Env        []string `json:"Env,omitempty"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// packLayer makes an uncompressed tar, the same bytes for the same files.
func packLayer(files []file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Linkname: f.link, Size: int64(len(f.data)), Mode: f.mode, Typeflag: tar.TypeReg}
		switch {
		case f.link != "":
			h.Typeflag = tar.TypeSymlink
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func encodeConfig(c config, layer []byte) ([]byte, error) {
	c.RootFS.Type, c.RootFS.DiffIDs = "layers", []string{"sha256:" + digest(layer)}
	return json.Marshal(c)
}

// writeDockerArchive writes what `docker save` writes.
func writeDockerArchive(path, ref string, c config, layer []byte) error {
	conf, err := encodeConfig(c, layer)
	if err != nil {
		return err
	}
	confName, layerName := digest(conf)+".json", digest(layer)+".tar"
	manifest, err := json.Marshal([]any{map[string]any{"Config": confName, "RepoTags": []string{ref}, "Layers": []string{layerName}}})
	if err != nil {
		return err
	}
	return writeArchive(path, []file{{name: confName, data: conf}, {name: layerName, data: layer}, {name: "manifest.json", data: manifest}})
}

// descriptor points to a blob (OCI image-spec, descriptor.md).
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func describe(kind string, blob []byte) descriptor {
	return descriptor{MediaType: "application/vnd.oci.image." + kind, Digest: "sha256:" + digest(blob), Size: len(blob)}
}

// writeOCIArchive writes an OCI image layout with one image.
func writeOCIArchive(path, ref string, c config, layer []byte) error {
	conf, err := encodeConfig(c, layer)
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": describe("config.v1+json", conf), "layers": []descriptor{describe("layer.v1.tar", layer)}})
	if err != nil {
		return err
	}
	entry := describe("manifest.v1+json", manifest)
	entry.Annotations = map[string]string{"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": ref}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{entry}})
	if err != nil {
		return err
	}
	files := []file{{name: "oci-layout", data: []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {name: "index.json", data: index}}
	for _, blob := range [][]byte{conf, layer, manifest} {
		files = append(files, file{name: "blobs/sha256/" + digest(blob), data: blob})
	}
	return writeArchive(path, files)
}

func writeArchive(path string, files []file) error {
	for i := range files {
		files[i].mode = 0o644
	}
	b, err := packLayer(files)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
