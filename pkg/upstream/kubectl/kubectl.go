// Package kubectl is upstream's kubectl, unpatched, with knarr's kubeconfig as its default.
//
// It ends the process by itself when a command of kubectl's fails, as kubectl does.
package kubectl

import (
	"context"
	"io"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
)

// Options is what kubectl is given by the process.
type Options struct {
	// Args are the arguments after "kubectl".
	Args []string
	// Kubeconfig is used unless --kubeconfig names another; empty leaves the choice to kubectl ($KUBECONFIG,
	// ~/.kube/config).
	Kubeconfig     string
	In             io.Reader
	Out, ErrOutput io.Writer
}

// Run runs one kubectl command, as cmd/kubectl/kubectl.go:27 does.
func Run(ctx context.Context, o Options) error {
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50.0)
	if o.Kubeconfig != "" {
		flags.KubeConfig = &o.Kubeconfig
	}
	command := cmd.NewDefaultKubectlCommandWithArgs(cmd.KubectlOptions{
		PluginHandler: cmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     append([]string{"kubectl"}, o.Args...),
		ConfigFlags:   flags,
		IOStreams:     genericiooptions.IOStreams{In: o.In, Out: o.Out, ErrOut: o.ErrOutput},
	})
	command.SetArgs(o.Args)
	return command.ExecuteContext(ctx)
}
