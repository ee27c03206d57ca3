package pypooluv_test

import (
	"context"
	"fmt"
	"log"

	"github.com/pypool/pypool"
	pypooluv "github.com/pypool/pypool/uv"
)

func ExamplePython() {
	ctx := context.Background()
	python, err := pypooluv.Python(ctx, "worker.py")
	if err != nil {
		log.Fatal(err)
	}
	pool, err := pypool.New(ctx, pypool.Config{Script: "worker.py", Python: python})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	fmt.Println(pypool.Call[string](ctx, pool, "greet", map[string]any{"name": "Ann"}))
}

func ExampleTool_Python() {
	tool := pypooluv.Tool{Dir: "/var/cache/shop/python", Args: []string{"--extra=gpu"}}
	python, err := tool.Python(context.Background(), "worker.py")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(python)
}
