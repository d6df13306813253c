package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// File is one entry of a layer or archive; a name that ends in a slash is a
// directory, one with a link is symbolic. Mode has the bits of chmod(2).
type File struct {
	Name, Link string
	Data       []byte
	Mode       int64
}

// Process is what a container of an image runs unless the pod says otherwise.
type Process struct {
	User       string   `json:"User,omitempty"`
	Entrypoint []string `json:"Entrypoint,omitempty"`
	Cmd        []string `json:"Cmd,omitempty"`
	Env        []string `json:"Env,omitempty"`
}

// config is an image configuration as far as the tests' images have one
// (OCI image-spec, config.md).
type config struct {
	Architecture string  `json:"architecture"`
	OS           string  `json:"os"`
	Config       Process `json:"config"`
	RootFS       struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// PackLayer makes an uncompressed tar, the same bytes for the same files.
func PackLayer(files []File) ([]byte, error) {
	var b bytes.Buffer
	if err := pack(&b, files); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func pack(out io.Writer, files []File) error {
	w := tar.NewWriter(out)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Linkname: f.Link, Size: int64(len(f.Data)), Mode: f.Mode, Typeflag: tar.TypeReg}
		switch {
		case f.Link != "":
			h.Typeflag = tar.TypeSymlink
		case strings.HasSuffix(f.Name, "/"):
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(f.Data); err != nil {
			return err
		}
	}
	return w.Close()
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Image is one image of this machine's architecture, under one name or several.
type Image struct {
	Refs    []string
	Process Process
	Layers  [][]byte // as PackLayer makes them, the lowest first
}

func (i Image) config() ([]byte, error) {
	c := config{Architecture: runtime.GOARCH, OS: "linux", Config: i.Process}
	c.RootFS.Type = "layers"
	for _, l := range i.Layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, "sha256:"+digest(l))
	}
	return json.Marshal(c)
}

// WriteDockerArchive writes what `docker save` writes. A layer of several
// images is there once.
func WriteDockerArchive(path string, images ...Image) error {
	type entry struct {
		Config           string
		RepoTags, Layers []string
	}
	var manifest []entry
	var files []File
	written := map[string]bool{}
	for _, i := range images {
		conf, err := i.config()
		if err != nil {
			return err
		}
		e := entry{Config: digest(conf) + ".json", RepoTags: i.Refs}
		blobs := []File{{Name: e.Config, Data: conf}}
		for _, l := range i.Layers {
			name := digest(l) + ".tar"
			e.Layers, blobs = append(e.Layers, name), append(blobs, File{Name: name, Data: l})
		}
		for _, b := range blobs {
			if !written[b.Name] {
				files, written[b.Name] = append(files, b), true
			}
		}
		manifest = append(manifest, e)
	}
	b, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	return writeArchive(path, append(files, File{Name: "manifest.json", Data: b}))
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

// WriteOCIArchive writes an OCI image layout with one image of one name and one layer.
func WriteOCIArchive(path string, i Image) error {
	conf, err := i.config()
	if err != nil {
		return err
	}
	ref, layer := i.Refs[0], i.Layers[0]
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
	files := []File{{Name: "oci-layout", Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {Name: "index.json", Data: index}}
	for _, blob := range [][]byte{conf, layer, manifest} {
		files = append(files, File{Name: "blobs/sha256/" + digest(blob), Data: blob})
	}
	return writeArchive(path, files)
}

func writeArchive(path string, files []File) error {
	for i := range files {
		files[i].Mode = 0o644
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("create archive: %w", err)
	}
	if err := errors.Join(pack(f, files), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
