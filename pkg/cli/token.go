package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/token"
)

func tokenCommand(env Env) *cli.Command {
	return &cli.Command{
		Name:  "token",
		Usage: "Make, list, delete and rotate the tokens that machines join with, and print the line to join with",
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "Create a bootstrap token, which joins agents until it expires", ArgsUsage: "[ID.SECRET]",
				Description: "Prints the full token. Without ID.SECRET a random one is made.",
				Flags:       append(bootstrapFlags(), kubeconfigFlag()),
				Action:      clusterAction(env, createToken),
			},
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "List the bootstrap tokens, without their secrets",
				Flags:  []cli.Flag{tableOrJSON(), kubeconfigFlag()},
				Action: clusterAction(env, listTokens),
			},
			{
				Name: "delete", Aliases: []string{"rm"}, Usage: "Delete bootstrap tokens", ArgsUsage: "ID...",
				Flags:  []cli.Flag{kubeconfigFlag()},
				Action: clusterAction(env, deleteTokens),
			},
			{
				Name: "generate", Usage: "Print a random bootstrap token, for `knarr token create`, and change nothing",
				Action: func(c *cli.Context) error {
					if err := noArguments(c); err != nil {
						return err
					}
					return printLine(env, token.GenerateBootstrap().Bearer())
				},
			},
			rotateCommand(env),
			joinCommand(env),
			{
				Name: "allow-node", Usage: "Let the next machine that joins as NODE have the name, whichever machine it is", ArgsUsage: "NODE",
				Description: "For a machine that was set up anew and lost " + nodePasswordFile + ", which\n" +
					"showed that it is the same. The allowance lasts an hour, and for one machine.",
				Flags:  []cli.Flag{kubeconfigFlag()},
				Action: clusterAction(env, allowNode),
			},
		},
	}
}

// nodePasswordFile is where an agent keeps what proves which machine it is.
const nodePasswordFile = configDir + "/node/password"

// bootstrapFlags describe a bootstrap token.
func bootstrapFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "ttl", Value: "24h", Usage: "`TIME` until the token expires, such as 30m or 24h; 0 for never"},
		&cli.StringFlag{Name: "usages", Value: strings.Join(join.Usages(), ","), Usage: "`LIST` of what it is good for: authentication, signing"},
		&cli.StringFlag{Name: "groups", Value: join.NodeGroup, Usage: "`LIST` of groups that who shows it is in; agents need the default"},
		&cli.StringFlag{Name: "description", Usage: "`TEXT` for people"},
	}
}

func kubeconfigFlag() cli.Flag {
	return &cli.StringFlag{Name: "kubeconfig", Value: adminKubeconfig, EnvVars: []string{"KUBECONFIG"}, Usage: "`FILE` to reach the cluster with"}
}

// reached is a cluster that a command talks to.
type reached struct {
	kubernetes.Interface
	config *rest.Config
}

// clusterAction is an action on the cluster of --kubeconfig.
func clusterAction(env Env, f func(context.Context, Env, *cli.Context, reached) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		cluster, err := reach(env.path(c.String("kubeconfig")))
		if err != nil {
			return failf("%w; run this on a server, or give --kubeconfig", err)
		}
		ctx, cancel := context.WithTimeout(c.Context, 30*time.Second)
		defer cancel()
		if err := f(ctx, env, c, cluster); err != nil {
			if ExitCode(err) == exitUsage {
				return err
			}
			return failf("%w", err)
		}
		return nil
	}
}

// reach makes a client of the cluster that a kubeconfig names.
func reach(kubeconfig string) (reached, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return reached{}, fmt.Errorf("read the kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return reached{}, fmt.Errorf("use kubeconfig %s: %w", kubeconfig, err)
	}
	return reached{client, config}, nil
}

// ca is the cluster's CA as the kubeconfig has it.
func (r reached) ca() ([]byte, error) {
	config := rest.CopyConfig(r.config)
	if err := rest.LoadTLSFiles(config); err != nil {
		return nil, fmt.Errorf("read the cluster's CA: %w", err)
	}
	return config.CAData, nil
}

// bootstrapRequest is a bootstrap token in the words of the flags.
type bootstrapRequest struct{ ttl, usages, groups, description string }

// newBootstrap stores t as a bootstrap token and returns it in full form.
func newBootstrap(ctx context.Context, cluster reached, t token.Token, r bootstrapRequest) (token.Token, error) {
	ttl, err := time.ParseDuration(r.ttl)
	if err != nil || ttl < 0 {
		return t, usagef("--ttl %q: want a time such as 30m or 24h, or 0 for a token that does not expire", r.ttl)
	}
	b := join.Bootstrap{Token: t, Description: r.description, Usages: list(r.usages), Groups: list(r.groups)}
	if ttl > 0 {
		b.Expires = time.Now().Add(ttl)
	}
	ca, err := cluster.ca()
	if err != nil {
		return t, err
	}
	full, err := t.WithCA(ca)
	if err != nil {
		return t, err
	}
	return full, join.CreateBootstrap(ctx, cluster, b)
}

func createToken(ctx context.Context, env Env, c *cli.Context, cluster reached) error {
	if c.NArg() > 1 {
		return usagef("token create: want one token or none")
	}
	t := token.GenerateBootstrap()
	if text := c.Args().First(); text != "" {
		var err error
		if t, err = token.Parse(text); err != nil || !t.IsBootstrap() {
			return usagef("token create: want a bootstrap token, ID.SECRET: 6 and 16 characters of a-z and 0-9, as `knarr token generate` prints")
		}
	}
	full, err := newBootstrap(ctx, cluster, t, bootstrapRequest{c.String("ttl"), c.String("usages"), c.String("groups"), c.String("description")})
	if err != nil {
		return err
	}
	return printLine(env, full.Reveal())
}

// list splits at commas.
func list(text string) []string {
	return slices.DeleteFunc(strings.Split(text, ","), func(s string) bool { return s == "" })
}

// shownToken is a bootstrap token without its secret.
type shownToken struct {
	ID          string     `json:"id"`
	Expires     *time.Time `json:"expires,omitempty"`
	Usages      []string   `json:"usages"`
	Groups      []string   `json:"groups"`
	Description string     `json:"description,omitempty"`
}

func listTokens(ctx context.Context, env Env, c *cli.Context, cluster reached) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := outputFormat(c)
	if err != nil {
		return err
	}
	tokens, err := join.ListBootstrap(ctx, cluster)
	if err != nil {
		return err
	}
	shown := []shownToken{}
	for _, t := range tokens {
		one := shownToken{ID: t.Token.ID(), Usages: t.Usages, Groups: t.Groups, Description: t.Description}
		if !t.Expires.IsZero() {
			one.Expires = &t.Expires
		}
		shown = append(shown, one)
	}
	if format == formatJSON {
		return printJSON(env, shown)
	}
	return printLine(env, strings.TrimRight(tokenTable(shown, time.Now()), "\n"))
}

func tokenTable(tokens []shownToken, now time.Time) string {
	var b strings.Builder
	row := func(cells ...any) { fmt.Fprintf(&b, "%-8s  %-10s  %-22s  %s\n", cells...) }
	row("ID", "EXPIRES", "USAGES", "DESCRIPTION")
	for _, t := range tokens {
		expires := "never"
		if t.Expires != nil {
			if left := t.Expires.Sub(now); left > 0 {
				expires = "in " + age(left)
			} else {
				expires = "expired"
			}
		}
		row(t.ID, expires, strings.Join(t.Usages, ","), t.Description)
	}
	return b.String()
}

func deleteTokens(ctx context.Context, env Env, c *cli.Context, cluster reached) error {
	if c.NArg() == 0 {
		return usagef("token delete: want the ids of tokens; `knarr token list` has them")
	}
	for _, id := range c.Args().Slice() {
		if err := join.DeleteBootstrap(ctx, cluster, id); err != nil {
			return err
		}
		id, _, _ = strings.Cut(id, ".")
		if err := printLine(env, "deleted bootstrap token "+id); err != nil {
			return err
		}
	}
	return nil
}

func allowNode(ctx context.Context, env Env, c *cli.Context, cluster reached) error {
	if c.NArg() != 1 {
		return usagef("token allow-node: want the name of one node")
	}
	node := c.Args().First()
	if err := join.AllowNode(ctx, cluster, node, time.Now()); err != nil {
		return err
	}
	return printLine(env, fmt.Sprintf("the next machine that joins as %s within %s may have the name", node, join.AllowFor))
}

func printLine(env Env, text string) error {
	if _, err := fmt.Fprintln(env.Stdout, text); err != nil {
		return failf("write result: %w", err)
	}
	return nil
}

// serverURL is where the servers say that they are reached.
func (r reached) serverURL(ctx context.Context) (string, error) {
	slices, err := r.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=kubernetes"})
	if err != nil {
		return "", fmt.Errorf("find the address of a server: %w", err)
	}
	for i := range slices.Items {
		if servers := join.ServerAddresses(&slices.Items[i]); len(servers) > 0 {
			return "https://" + servers[0], nil
		}
	}
	return "", errors.New("the cluster names no address of a server: give one with --server")
}
