package kubelet

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/scheme"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/v1beta1"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/validation"
	"sigs.k8s.io/yaml"

	"github.com/knarr-io/knarr/pkg/upstream/argv"
)

// argsFlag is the knarr flag whose values arrive in Config.ExtraArgs.
const argsFlag = "kubelet-arg"

// parseFlags parses args into flags, and into config what upstream still has as flags for it.
func parseFlags(args []string, flags *options.KubeletFlags, config *kubeletconfig.KubeletConfiguration) error {
	set := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	flags.AddFlags(set)
	options.AddKubeletConfigFlags(set, config)
	return argv.Parse(argsFlag, args, set)
}

// load makes the kubelet's configuration as cmd/kubelet/app/server.go:183-235 does: the --config file, the drop-in
// directory merged over it in lexical order, the command line over both.
func load(args []string) (*options.KubeletServer, error) {
	flags := options.NewKubeletFlags()
	config, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, fmt.Errorf("make kubelet configuration: %w", err)
	}
	if err := parseFlags(args, flags, config); err != nil {
		return nil, err
	}
	if err := options.ValidateKubeletFlags(flags); err != nil {
		return nil, &argv.UsageError{Flag: argsFlag, Err: err}
	}
	if config, err = fromFiles(config, flags.KubeletConfigFile, flags.KubeletDropinConfigDirectory); err != nil {
		return nil, err
	}
	gates := maps.Clone(config.FeatureGates)
	if err := parseFlags(args, options.NewKubeletFlags(), config); err != nil {
		return nil, err
	}
	for name, on := range gates { // gates of files that the command line does not name (server.go:428-445)
		if _, ok := config.FeatureGates[name]; !ok {
			config.FeatureGates[name] = on
		}
	}
	return &options.KubeletServer{KubeletFlags: *flags, KubeletConfiguration: *config}, nil
}

// validate needs the process's feature gates to be set.
func validate(s *options.KubeletServer) error {
	if err := validation.ValidateKubeletConfiguration(&s.KubeletConfiguration, utilfeature.DefaultFeatureGate); err != nil {
		return &argv.UsageError{Flag: argsFlag, Err: fmt.Errorf("kubelet configuration (%s): %w", s.KubeletDropinConfigDirectory, err)}
	}
	return nil
}

// fromFiles merges the files over base, as mergeKubeletConfigurations does (server.go:300).
func fromFiles(base *kubeletconfig.KubeletConfiguration, file, dropIns string) (*kubeletconfig.KubeletConfiguration, error) {
	versioned := &kubeletv1beta1.KubeletConfiguration{}
	if err := v1beta1.Convert_config_KubeletConfiguration_To_v1beta1_KubeletConfiguration(base, versioned, nil); err != nil {
		return nil, fmt.Errorf("convert kubelet configuration: %w", err)
	}
	merged, err := json.Marshal(versioned)
	if err != nil {
		return nil, fmt.Errorf("encode kubelet configuration: %w", err)
	}
	files, err := dropInFiles(dropIns)
	if err != nil {
		return nil, err
	}
	if file != "" {
		files = append([]string{file}, files...)
	}
	for _, f := range files {
		if merged, err = mergeFile(merged, f); err != nil {
			return nil, err
		}
	}
	versioned = &kubeletv1beta1.KubeletConfiguration{}
	if err := json.Unmarshal(merged, versioned); err != nil {
		return nil, fmt.Errorf("decode merged kubelet configuration: %w", err)
	}
	schemes, _, err := scheme.NewSchemeAndCodecs()
	if err != nil {
		return nil, fmt.Errorf("make kubelet configuration scheme: %w", err)
	}
	schemes.Default(versioned)
	result := &kubeletconfig.KubeletConfiguration{}
	if err := schemes.Convert(versioned, result, nil); err != nil {
		return nil, fmt.Errorf("convert merged kubelet configuration: %w", err)
	}
	return result, nil
}

func dropInFiles(dir string) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	var files []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && filepath.Ext(path) == ".conf" {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list kubelet configuration %s: %w", dir, err)
	}
	return files, nil
}

func mergeFile(base []byte, path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read kubelet configuration: %w", err)
	}
	var kind struct{ APIVersion, Kind string }
	patch, err := yaml.YAMLToJSONStrict(content)
	if err == nil {
		err = json.Unmarshal(patch, &kind)
	}
	if err != nil {
		return nil, fmt.Errorf("parse kubelet configuration %s: %w", path, err)
	}
	if kind.APIVersion != kubeletv1beta1.SchemeGroupVersion.String() || kind.Kind != "KubeletConfiguration" {
		return nil, fmt.Errorf("kubelet configuration %s is %q of %q; it must be KubeletConfiguration of %s",
			path, kind.Kind, kind.APIVersion, kubeletv1beta1.SchemeGroupVersion)
	}
	var strict kubeletv1beta1.KubeletConfiguration
	if err := yaml.UnmarshalStrict(content, &strict); err != nil {
		return nil, fmt.Errorf("parse kubelet configuration %s: %w", path, err)
	}
	merged, err := jsonpatch.MergePatch(base, patch)
	if err != nil {
		return nil, fmt.Errorf("merge kubelet configuration %s: %w", path, err)
	}
	return merged, nil
}
