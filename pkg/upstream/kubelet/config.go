// Package kubelet runs upstream's kubelet, unpatched, as a component of the process.
//
// Its configuration is the merge that upstream makes of files and flags: knarr's defaults are written to
// 00-knarr-defaults.conf in a drop-in directory, users' files beside it win over them, and --kubelet-arg wins over all.
//
// Upstream's Run returns while its goroutines live on, and some of its failures end the process. It stops when its
// context ends; pods go on running.
package kubelet

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"sigs.k8s.io/yaml"

	"github.com/knarr-io/knarr/pkg/upstream/argv"
)

// Config is what the kubelet of one node needs to know. All paths are absolute.
type Config struct {
	NodeName string
	NodeIPs  []netip.Addr
	Labels   []string       // key=value, at registration
	Taints   []corev1.Taint // at registration

	// Kubeconfig is the path of its credentials.
	Kubeconfig                         string
	ClientCA                           string // of those who may call it
	ServingCert                        string
	ServingKey                         string
	RootDir                            string // /var/lib/kubelet: CSI drivers and tools depend on it
	CertDir                            string
	DropInDir                          string // with 00-knarr-defaults.conf
	StaticPodDir                       string
	RuntimeEndpoint                    string // unix://...
	ImageEndpoint                      string // empty: RuntimeEndpoint
	ClusterDNS                         []netip.Addr
	ClusterDomain                      string
	ResolvConf                         string
	CgroupDriver                       string // systemd or cgroupfs
	CgroupControllers                  []string
	CredentialBinDir, CredentialConfig string
	ProtectKernelDefaults              bool
	// FlexVolumeDir is where upstream looks for FlexVolume drivers; it makes the directory.
	FlexVolumeDir string
	// IPTables lets the kubelet mark its chains for tools that look for them; only where iptables programs packets.
	IPTables bool
	// InhibitShutdown has the kubelet delay a shutdown of the host until its pods have ended, which takes a systemd-logind.
	InhibitShutdown bool
	// OOMScoreAdj is the process's, which is one for all components.
	OOMScoreAdj int
	// MaxOpenFiles is what the kubelet raises the process's limit to.
	MaxOpenFiles int64
	// ExtraArgs are the user's, "name=value"; they win.
	ExtraArgs []string
	// HeartbeatsFail, when not nil, is told when the API has not taken the node's status or lease twice in a row: after
	// twice ten seconds if it does not answer.
	HeartbeatsFail func()
}

// How long a shutdown of the host waits for pods to end, and how much of it is kept for critical ones. Upstream's default
// is not to wait.
const (
	shutdownGrace         = time.Minute
	shutdownGraceCritical = 15 * time.Second
)

// Args is the argument list, the user's last: only what has no place in the configuration file.
func (c Config) Args() []string {
	ips := make([]string, len(c.NodeIPs))
	for i, a := range c.NodeIPs {
		ips[i] = a.String()
	}
	return argv.List{}.With(
		"hostname-override", c.NodeName,
		"kubeconfig", c.Kubeconfig,
		"config-dir", c.DropInDir,
		"root-dir", c.RootDir,
		"cert-dir", c.CertDir,
		// knarr's node controller says what the addresses are and takes the uninitialized taint away.
		"cloud-provider", "external",
		"node-ip", strings.Join(ips, ","),
		"node-labels", strings.Join(c.Labels, ","),
		"image-credential-provider-bin-dir", c.CredentialBinDir,
		"image-credential-provider-config", c.CredentialConfig,
	).Merge(c.ExtraArgs)
}

// Defaults is what knarr sets in 00-knarr-defaults.conf.
func (c Config) Defaults() kubeletv1beta1.KubeletConfiguration {
	no, yes := false, true
	adj := int32(c.OOMScoreAdj)
	kc := kubeletv1beta1.KubeletConfiguration{
		TypeMeta:                 metav1.TypeMeta{APIVersion: kubeletv1beta1.SchemeGroupVersion.String(), Kind: "KubeletConfiguration"},
		Authentication:           kubeletv1beta1.KubeletAuthentication{X509: kubeletv1beta1.KubeletX509Authentication{ClientCAFile: c.ClientCA}, Webhook: kubeletv1beta1.KubeletWebhookAuthentication{Enabled: &yes}, Anonymous: kubeletv1beta1.KubeletAnonymousAuthentication{Enabled: &no}},
		Authorization:            kubeletv1beta1.KubeletAuthorization{Mode: kubeletv1beta1.KubeletAuthorizationModeWebhook},
		TLSCertFile:              c.ServingCert,
		TLSPrivateKeyFile:        c.ServingKey,
		StaticPodPath:            c.StaticPodDir,
		ContainerRuntimeEndpoint: c.RuntimeEndpoint,
		ImageServiceEndpoint:     c.ImageEndpoint,
		ClusterDomain:            c.ClusterDomain,
		CgroupDriver:             c.CgroupDriver,
		ResolverConfig:           &c.ResolvConf,
		ProtectKernelDefaults:    c.ProtectKernelDefaults,
		OOMScoreAdj:              &adj,
		MaxOpenFiles:             c.MaxOpenFiles,
		SerializeImagePulls:      &no,
		RegisterWithTaints:       c.Taints,
		VolumePluginDir:          c.FlexVolumeDir,
		MakeIPTablesUtilChains:   &c.IPTables,
		FailSwapOn:               &no,
		// Hosts with cgroup v1 get a warning from check-config, not a refusal.
		FailCgroupV1: &no,
		// The process has one health endpoint and one profiler of its own.
		HealthzPort:             new(int32),
		EnableDebuggingHandlers: &yes,
		EnableProfilingHandler:  &no,
	}
	if c.InhibitShutdown {
		kc.ShutdownGracePeriod = metav1.Duration{Duration: shutdownGrace}
		kc.ShutdownGracePeriodCriticalPods = metav1.Duration{Duration: shutdownGraceCritical}
	}
	for _, a := range c.ClusterDNS {
		kc.ClusterDNS = append(kc.ClusterDNS, a.String())
	}
	return kc
}

// DefaultsFile is the content of 00-knarr-defaults.conf: Defaults without what is left to upstream.
func (c Config) DefaultsFile() ([]byte, error) {
	encoded, err := json.Marshal(c.Defaults())
	if err != nil {
		return nil, fmt.Errorf("encode kubelet defaults: %w", err)
	}
	var fields map[string]any
	if err := json.Unmarshal(encoded, &fields); err != nil {
		return nil, fmt.Errorf("decode kubelet defaults: %w", err)
	}
	delete(fields, "logging") // the process has one log
	prune(fields)
	text, err := yaml.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("encode kubelet defaults: %w", err)
	}
	header := "# Written by knarr at every start. To change a setting, put a file of your own beside this one.\n"
	return append([]byte(header), text...), nil
}

// prune drops the durations and structs that were not set: their types have no omitempty that works.
func prune(fields map[string]any) {
	maps.DeleteFunc(fields, func(_ string, v any) bool {
		inner, ok := v.(map[string]any)
		if ok {
			prune(inner)
		}
		return v == any("0s") || ok && len(inner) == 0
	})
}
