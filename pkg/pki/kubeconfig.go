package pki

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/clientcmd/api/latest"
)

// contextName names the one cluster, user and context of each kubeconfig, as
// k3s does.
const contextName = "default"

func (r *run) ensureKubeconfigs() error {
	for _, want := range r.plan.Kubeconfigs {
		name := want.Name + " kubeconfig"
		data, err := r.kubeconfig(want)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := r.derived(name, want.Path, data, keyMode); err != nil {
			return err
		}
		if want.ID == AdminFile {
			if err := grantAdmin(r.cfg.Admin); err != nil {
				return err
			}
		}
	}
	return nil
}

// kubeconfig encodes one kubeconfig. Where it names files, client-go reads them
// again by itself: the client certificate for each new connection and every
// five minutes, closing connections made with an older one (client-go v0.37.1
// transport/transport.go:227-229 and :148-150, transport/cert_rotation.go:36
// and :104-105, transport/cache.go:130-139).
func (r *run) kubeconfig(want PlannedKubeconfig) ([]byte, error) {
	cluster := &api.Cluster{Server: want.Server, CertificateAuthority: want.CAFile}
	auth := &api.AuthInfo{ClientCertificate: want.User.Cert, ClientKey: want.User.Key}
	if want.Embedded {
		leaf := r.leaves[kubeconfigTable()[want.ID].user]
		cluster = &api.Cluster{Server: want.Server, CertificateAuthorityData: r.authorities[ServerCA].bundle}
		auth = &api.AuthInfo{ClientCertificateData: leaf.certPEM, ClientKeyData: leaf.keyPEM}
	}
	config := api.NewConfig()
	config.Clusters[contextName] = cluster
	config.AuthInfos[contextName] = auth
	config.Contexts[contextName] = &api.Context{Cluster: contextName, AuthInfo: contextName}
	config.CurrentContext = contextName
	data, err := runtime.Encode(latest.Codec, config)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return data, nil
}

// grantAdmin gives the administrator's kubeconfig the mode and group asked for.
// The file is written closed and opened afterwards, so that it is never readable
// by more than it should be.
func grantAdmin(admin AdminKubeconfig) error {
	mode := admin.Mode
	if mode == 0 {
		mode = keyMode
	}
	info, err := os.Stat(admin.Path)
	if err != nil {
		return fmt.Errorf("admin kubeconfig: %w", err)
	}
	if admin.Group != "" {
		gid, err := lookupGroup(admin.Group)
		if err != nil {
			return fmt.Errorf("admin kubeconfig %s: %w", admin.Path, err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Gid) != gid {
			if err := os.Chown(admin.Path, -1, gid); err != nil {
				return fmt.Errorf("admin kubeconfig: give to group %s: %w", admin.Group, err)
			}
		}
	}
	if info.Mode().Perm() != mode&fs.ModePerm {
		if err := os.Chmod(admin.Path, mode); err != nil {
			return fmt.Errorf("admin kubeconfig: %w", err)
		}
	}
	return nil
}

func lookupGroup(group string) (int, error) {
	if gid, err := strconv.Atoi(group); err == nil && gid >= 0 {
		return gid, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("look up group of write-kubeconfig-group: %w: create the group or name another", err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return 0, fmt.Errorf("group %s has no numeric id (%q)", group, g.Gid)
	}
	return gid, nil
}
