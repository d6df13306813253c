// Package manifests holds what knarr installs into a cluster by itself, as the YAML files beside this one. The addon
// controller writes them to <data-dir>/server/manifests and applies them.
//
// A file may name values of the cluster as %{NAME}%; [Read] puts them in, and that is all the templating there is. What
// is not the same on every cluster beyond that belongs into a component, not into YAML.
//
// A file NAME.yaml, or all files of a folder NAME, are the component NAME that --disable takes. The Addon of a file has
// the file's name without folder and ending, which therefore must be unique here and a DNS label.
package manifests

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// A folder needs a pattern of its own here.
//
//go:embed *.yaml traefik/*.yaml
var files embed.FS

// Names that manifests may use between %{ and }%.
const (
	// ClusterDNS is the first address of the cluster's DNS service, ClusterDNSList all of them as a YAML list.
	ClusterDNS     = "CLUSTER_DNS"
	ClusterDNSList = "CLUSTER_DNS_LIST"
	// ClusterDomain is the DNS domain of the cluster.
	ClusterDomain = "CLUSTER_DOMAIN"
	// BaseImage is the image that knarr's executable is mounted into (docs/images.md).
	BaseImage = "BASE_IMAGE"
	// Version is knarr's.
	Version = "VERSION"
)

// Values are what stands for the names.
type Values map[string]string

// Files are the paths of the bundled manifests, slash-separated, sorted.
func Files() []string {
	var found []string
	// Walking what is embedded cannot fail.
	_ = fs.WalkDir(files, ".", func(file string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, file)
		}
		return err
	})
	slices.Sort(found)
	return found
}

// Component is the component that a bundled manifest belongs to.
func Component(file string) string {
	name, _, _ := strings.Cut(file, "/")
	return strings.TrimSuffix(name, ".yaml")
}

// Names are what --disable takes: the components that consist of manifests, and the names of the single files; sorted.
func Names() []string {
	var names []string
	for _, file := range Files() {
		names = append(names, Component(file), strings.TrimSuffix(path.Base(file), ".yaml"))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Read returns a bundled manifest with the values put in. A name without a value is an error.
func Read(file string, values Values) ([]byte, error) {
	data, err := files.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read bundled manifest: %w", err)
	}
	var missing []string
	data = regexp.MustCompile(`%\{([^}]*)\}%`).ReplaceAllFunc(data, func(match []byte) []byte {
		name := string(match[2 : len(match)-2])
		value, ok := values[name]
		if !ok {
			missing = append(missing, name)
		}
		return []byte(value)
	})
	if len(missing) > 0 {
		return nil, fmt.Errorf("bundled manifest %s: no value for %s", file, strings.Join(missing, ", "))
	}
	return data, nil
}
